"""What the samplers that look select, a second time in plain Python, for two tokens of two digits.

A rule yields (chance, revealed, masked again, memory) of a state, given what was drawn for every token; sub-tokens 0
and 1 are the first token's, 2 and 3 the second's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

POSITIONS = {0: (0, 1), 1: (2, 3)}
DIGITS = {n: (n,) for n in range(4)}
Parts = dict[int, tuple[int, ...]]
State = tuple[int, ...]
Move = tuple[float, frozenset[int], frozenset[int], Any]  # chance, revealed, masked again, memory


@dataclass(frozen=True)
class Token:
    """What a rule may know of a token with something masked: its unit, p over the unit's values, the value drawn."""

    unit: tuple[int, ...]
    probs: dict[tuple[int, ...], float]
    value: tuple[int, ...]

    @property
    def sure(self) -> float:
        return self.probs[self.value]

    @property
    def nats(self) -> float:
        return -sum(p * math.log(p) for p in self.probs.values() if p > 0)

    @property
    def margin(self) -> float:
        best = sorted(self.probs.values())[::-1]
        return best[0] - best[1] if len(best) > 1 else best[0]


Rule = Callable[[int, State, dict[int, Token], Any], Iterator[Move]]


def pick(tokens: dict[int, Token], score: Callable[[Token], float], count: int) -> frozenset[int]:
    """The units of the best `count` tokens; ties go to the earlier one."""
    best = sorted(tokens, key=lambda t: (-score(tokens[t]), t))[:count]
    return frozenset(n for t in best for n in tokens[t].unit)


def best(score: Callable[[Token], float], unit: str, steps: int, pace: Callable[[float], float] = lambda s: s) -> Rule:
    """By score, as many units as the pace asks for; the quota goes over the tokens, then into their depth."""

    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        masked = frozenset(n for n in range(4) if y[n] < 0)
        if step >= steps or not tokens:
            yield 1.0, masked, frozenset(), None
            return
        total, left = (4, len(masked)) if unit == "digit" else (2, len(tokens))
        quota = min(left, max(1, math.floor(total * pace(step / steps) + 1e-9) - (total - left)))
        depth = math.ceil(quota / len(tokens))
        chosen = pick(tokens, score, math.ceil(quota / depth))
        if unit == "digit" and depth == 2:
            chosen = masked & frozenset(n for n in range(4) if n in chosen or n - 1 in chosen)
        yield 1.0, chosen, frozenset(), None

    return rule


def alone(select: Callable[[dict[int, Token], int, State], frozenset[int]]) -> Rule:
    """A rule without chance of its own."""

    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        yield 1.0, select(tokens, step, y) if tokens else frozenset(), frozenset(), None

    return rule


def noisy(score: Callable[[Token], float], weight: Callable[[int], float], steps: int) -> Rule:
    """One unit a step, the last step the rest: two scores with Gumbel noise of that weight differ by a logistic."""

    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        if len(tokens) < 2 or step >= steps:
            masked = frozenset(n for n in range(4) if y[n] < 0)
            yield 1.0, masked if step >= steps or not masked else pick(tokens, score, 1), frozenset(), None
            return
        first = 1 / (1 + math.exp((score(tokens[1]) - score(tokens[0])) / weight(step)))
        for token, chance in ((0, first), (1, 1 - first)):
            yield chance, frozenset(tokens[token].unit), frozenset(), None

    return rule


def entropy_bounded(gamma: float, block: int = 2) -> Rule:
    def select(tokens: dict[int, Token], step: int, y: State) -> frozenset[int]:
        window = {t: tokens[t] for t in tokens if t // block == min(tokens) // block}
        nats = sorted(token.nats for token in window.values())
        count = max(k for k in range(1, len(nats) + 1) if sum(nats[:k]) - nats[k - 1] <= gamma)
        return pick(window, lambda token: -token.nats, count)

    return alone(select)


def entropy_budget(steps: int) -> Rule:
    def select(tokens: dict[int, Token], step: int, y: State) -> frozenset[int]:
        masked = [n for n in range(4) if y[n] < 0]
        if step >= steps:
            return frozenset(masked)
        nats = sorted(token.nats for token in tokens.values())
        share = sum(nats) / len(nats) * len(masked) / (steps - step + 1)
        count = max(1, sum(sum(nats[: k + 1]) <= share for k in range(len(nats))))
        return pick(tokens, lambda token: -token.nats, count)

    return alone(select)


def threshold(limit: float) -> Rule:
    return alone(
        lambda tokens, *_: pick(tokens, lambda t: t.sure, max(1, sum(t.sure > limit for t in tokens.values())))
    )


def factor(bound: float) -> Rule:
    def select(tokens: dict[int, Token], *_: Any) -> frozenset[int]:
        sure = sorted((token.sure for token in tokens.values()), reverse=True)
        count = max([1, *(k for k in range(1, len(sure) + 1) if (k + 1) * (1 - sure[k - 1]) < bound)])
        return pick(tokens, lambda token: token.sure, count)

    return alone(select)


def klass(confidence: float, divergence: float) -> Rule:
    """One step of history; memory: of each token its unit, its probabilities and for how many steps they were calm."""

    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        before, now = dict(memory or ()), {}
        for t, token in tokens.items():
            unit, probs, calm = before.get(t, (None, None, 0))
            gap = math.inf
            if unit == token.unit[0]:
                gap = sum(p * math.log(p / q) for p, q in zip(token.probs.values(), probs) if p > 0)
            now[t] = token.unit[0], tuple(token.probs.values()), calm + 1 if gap < divergence else 0
        stable = {t: tokens[t] for t in tokens if tokens[t].sure > confidence and now[t][2] >= 1}
        chosen = pick(stable or tokens, lambda token: token.sure, len(stable) or 1)
        yield 1.0, chosen, frozenset(), tuple({**before, **now}.items())

    return rule


def mixture(share: float, steps: int) -> Rule:
    """The raster takes ⌊share · units done⌋ of the units, the largest margin the others."""

    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        masked = [n for n in range(4) if y[n] < 0]
        if step >= steps or not masked:
            yield 1.0, frozenset(masked), frozenset(), None
            return
        done = 4 - len(masked)
        quota = max(1, math.floor(4 * step / steps + 1e-9) - done)
        planned = math.floor(share * (done + quota) + 1e-9) - math.floor(share * done + 1e-9)
        chosen = frozenset(masked[:planned])
        # a unit of the rule is the next digit of a token that the plan has left masked, scored as before the step
        rest = {t: [n for n in POSITIONS[t] if n in masked and n not in chosen] for t in POSITIONS}
        order = sorted((t for t in rest if rest[t]), key=lambda t: (-tokens[t].margin, t))
        yield 1.0, chosen | {rest[t][0] for t in order[: quota - planned]}, frozenset(), None

    return rule


def remdm(kind: str, eta: float, steps: int, hold: float = 0.1, parts: Parts = POSITIONS) -> Rule:
    """Memory: how sure each unmasked part was when it was drawn, as long as it matters."""

    def alpha(step: int) -> float:
        s = step / steps
        if kind != "loop":
            return s
        return min(1 - hold, (1 - hold) * 4 * s) if s < 0.75 else (1 - hold) + hold * (4 * s - 3)

    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        was, low, high = dict(memory or ()), alpha(step - 1), alpha(step)
        limit = min(1.0, (1 - high) / low) if low > 0 else 0.0
        masked = {t for t in parts if y[parts[t][0]] < 0}
        unmasked = [t for t in parts if t not in masked]
        weights = {t: math.exp(-was.get(t, 0.0)) for t in unmasked}
        sigma = {
            t: {"cap": min(eta, limit), "conf": limit * weights[t] / sum(weights.values())}.get(kind, eta * limit)
            for t in unmasked
        }
        mean = (
            sum(sigma.values()) / max(1, len(unmasked))
            if kind == "conf"
            else {"cap": min(eta, limit)}.get(kind, eta * limit)
        )
        reveal = 1.0 if step == steps else (high - (1 - mean) * low) / (1 - low)
        for flips in itertools.product((False, True), repeat=len(parts)):
            chance = math.prod(
                (p if flip else 1 - p) for t, flip in enumerate(flips) for p in [reveal if t in masked else sigma[t]]
            )
            if chance > 0:
                moved = {t for t in parts if flips[t]}
                new = {t: was[t] for t in unmasked if t not in moved and t in was}
                new |= {t: round(tokens[t].sure, 12) for t in moved & masked}
                yield (
                    chance,
                    frozenset(n for t in moved & masked for n in parts[t]),
                    frozenset(n for t in moved - masked for n in parts[t]),
                    tuple(sorted(new.items())) if kind == "conf" and step < steps - 1 else None,
                )

    return rule


def path_planning(eta: float, steps: int, parts: Parts = POSITIONS) -> Rule:
    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        masked = {t for t in parts if y[parts[t][0]] < 0}
        score = {t: math.log(tokens[t].sure) * (1 if t in masked else eta) for t in parts}
        kept = sorted(parts, key=lambda t: (-score[t], t))[: len(parts) * step // steps]
        reveal = masked if step >= steps else masked & set(kept)
        remask = set() if step >= steps else set(parts) - masked - set(kept)
        yield 1.0, *(frozenset(n for t in part for n in parts[t]) for part in (reveal, remask)), None

    return rule
