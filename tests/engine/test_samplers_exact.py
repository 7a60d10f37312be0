"""The exact distribution of a few steps of every sampler that looks, by walking all states with all draws.

A rule is written here a second time in plain Python: what it selects in a state, given the whole codes drawn for every
token, with its chances. The walk sums over the draws; its result is the distribution that samples must have.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import digit_oracle
import oracle
import pytest
import torch

from mmprime.engine import ChainHead, FactoredHead, Head, Sampler, Schedule, sample
from mmprime.engine.samplers import (
    Blocks,
    Confidence,
    Entropy,
    EntropyBounded,
    EntropyBudget,
    Factor,
    Klass,
    Margin,
    Mixture,
    Moment,
    PathPlanning,
    Raster,
    ReMDM,
    Threshold,
)

WORLD = oracle.pair_world(3)  # two tokens of two digits, three codes each: sub-tokens 0, 1 and 2, 3
MODEL: Any = oracle.wrong(WORLD)
DIGITS = WORLD.canvas.spans[0].codec.digits.tolist()
POSITIONS = {0: (0, 1), 1: (2, 3)}
BATCH = 6000
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


@cache
def codes_of(y: State, token: int, power: float = 1.0) -> list[float]:
    """p(code | y) of a token, by its own visible digits."""
    if isinstance(MODEL, digit_oracle.DigitTable):
        return digit_oracle.code_chances(MODEL, y, token, power)
    logits = MODEL.table.detach()[oracle.state_number(torch.tensor([y]), MODEL.radix)[0], token, : len(DIGITS)]
    agrees = [all(y[n] in (-1, d) for n, d in zip(POSITIONS[token], digits)) for digits in DIGITS]
    return (power * logits).masked_fill(~torch.tensor(agrees), -math.inf).softmax(0).tolist()


def described(y: State, token: int, code: int, unit: str) -> Token:
    """The unit of a token: its next masked digit, or all of them."""
    masked = tuple(n for n in POSITIONS[token] if y[n] < 0)
    own = masked[:1] if unit == "digit" else masked
    values = [tuple(DIGITS[c][n - 2 * token] for n in own) for c in range(len(DIGITS))]
    probs: dict[tuple[int, ...], float] = defaultdict(float)
    if unit == "digit":
        radices = WORLD.canvas.spans[0].codec.radices
        probs.update({(d,): 0.0 for d in range(radices[own[0] - 2 * token])})
    for c, p in enumerate(codes_of(y, token)):
        probs[values[c]] += p
    return Token(own, dict(probs), values[code])


def distribution(
    rule: Rule, unit: str = "digit", power: float = 1.0, last: int = 4, again: bool = False
) -> torch.Tensor:
    """The distribution (K,) of samples. again: unmasked tokens are described too, as if they were masked."""
    now: dict[tuple[State, Any], float] = {((-1,) * 4, None): 1.0}
    for step in range(1, last + 1):
        after: dict[tuple[State, Any], float] = defaultdict(float)
        for (y, memory), mass in now.items():
            whole = {t for t in POSITIONS if all(y[n] >= 0 for n in POSITIONS[t])}
            draws = [list(enumerate(codes_of(y, t, power))) for t in POSITIONS]
            for drawn in itertools.product(*draws):
                chance = mass * math.prod(p for _, p in drawn)
                if chance == 0:
                    continue
                tokens = {t: described(y, t, drawn[t][0], unit) for t in POSITIONS if t not in whole}
                if again:
                    tokens |= {t: as_masked(y, t) for t in whole}
                for share, reveal, remask, remembered in rule(step, y, tokens, memory):
                    new = list(y)
                    for n in reveal:
                        new[n] = DIGITS[drawn[n // 2][0]][n % 2]
                    for n in remask:
                        new[n] = -1
                    after[tuple(new), remembered] += chance * share
        now = after
    total: dict[State, float] = defaultdict(float)
    for (y, _), mass in now.items():
        total[y] += mass
    return torch.tensor([total[tuple(row)] for row in WORLD.y.tolist()], dtype=torch.float64)


def as_masked(y: State, token: int) -> Token:
    """An unmasked token, of which the model sees the value but no code is ruled out."""
    own = y[2 * token : 2 * token + 2]
    if isinstance(MODEL, digit_oracle.DigitTable):
        chances = digit_oracle.code_chances(MODEL, y, token, again=True)
    else:
        logits = MODEL.table.detach()[oracle.state_number(torch.tensor([y]), MODEL.radix)[0], token, : len(DIGITS)]
        chances = logits.softmax(0).tolist()
    return Token(POSITIONS[token], {tuple(d): p for d, p in zip(DIGITS, chances)}, own)


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


def remdm(kind: str, eta: float, steps: int, hold: float = 0.1) -> Rule:
    """Memory: how sure each unmasked token was when it was drawn."""

    def alpha(step: int) -> float:
        s = step / steps
        if kind != "loop":
            return s
        return min(1 - hold, (1 - hold) * 4 * s) if s < 0.75 else (1 - hold) + hold * (4 * s - 3)

    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        was, low, high = dict(memory or ()), alpha(step - 1), alpha(step)
        limit = min(1.0, (1 - high) / low) if low > 0 else 0.0
        unmasked = [t for t in POSITIONS if t not in tokens]
        weights = {t: math.exp(-was[t]) for t in unmasked}
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
        for flips in itertools.product((False, True), repeat=2):
            chance = math.prod(
                (p if flip else 1 - p) for t, flip in enumerate(flips) for p in [reveal if t in tokens else sigma[t]]
            )
            if chance > 0:
                moved = [t for t in POSITIONS if flips[t]]
                new = {**was, **{t: round(tokens[t].sure, 12) for t in moved if t in tokens}}
                yield (
                    chance,
                    frozenset(n for t in moved if t in tokens for n in POSITIONS[t]),
                    frozenset(n for t in moved if t not in tokens for n in POSITIONS[t]),
                    tuple(new.items()),
                )

    return rule


def path_planning(eta: float, steps: int) -> Rule:
    def rule(step: int, y: State, tokens: dict[int, Token], memory: Any) -> Iterator[Move]:
        masked = {t for t in POSITIONS if y[2 * t] < 0}
        score = {t: math.log(tokens[t].sure) * (1 if t in masked else eta) for t in POSITIONS}
        kept = sorted(POSITIONS, key=lambda t: (-score[t], t))[: 2 * step // steps]
        reveal = masked if step >= steps else masked & set(kept)
        remask = set() if step >= steps else set(POSITIONS) - masked - set(kept)
        yield 1.0, *(frozenset(n for t in part for n in POSITIONS[t]) for part in (reveal, remask)), None

    return rule


def case(sampler: Sampler, rule: Rule, unit: str = "digit", **options: Any) -> Any:
    words = [sampler.name, unit, *(str(getattr(sampler, name)) for name in ("steps", "kind") if hasattr(sampler, name))]
    return pytest.param(sampler, lambda: distribution(rule, unit, **options), id="-".join(words))


def cosine(share: float) -> float:
    return 1 - math.cos(math.pi / 2 * share)


CASES = [
    *(case(Margin(k, unit=u), best(lambda t: t.margin, u, k), u) for u in ("digit", "token") for k in (1, 2, 3)),
    *(case(Entropy(k, unit=u), best(lambda t: -t.nats, u, k), u) for u in ("digit", "token") for k in (2, 3)),
    case(Confidence(3, noise=0.0), best(lambda t: t.sure, "digit", 3, cosine)),
    case(Confidence(2, noise=0.0, pace=Schedule.linear()), best(lambda t: t.sure, "digit", 2)),
    case(
        Confidence(2, noise=1.5, pace=Schedule.linear(), unit="token"),
        noisy(lambda t: math.log(t.sure), lambda step: 1.5 * (1 - (step - 1) / 2), 2),
        "token",
    ),
    case(
        Confidence(4, noise=1.5, pace=Schedule.linear()),
        noisy(lambda t: math.log(t.sure), lambda step: 1.5 * (1 - (step - 1) / 4), 4),
    ),
    case(
        Moment(2, power=1.7, unit="token"),
        noisy(lambda t: math.log(sum(p**1.7 for p in t.probs.values())), lambda step: 1.0, 2),
        "token",
        power=1.7,
    ),
    case(EntropyBounded(0.05), entropy_bounded(0.05)),
    case(EntropyBounded(0.5, unit="token"), entropy_bounded(0.5), "token"),
    case(Blocks(0.05, size=1), entropy_bounded(0.05, 1)),
    case(EntropyBudget(2), entropy_budget(2)),
    case(EntropyBudget(3), entropy_budget(3)),
    case(Threshold(0.6), threshold(0.6)),
    case(Threshold(0.6, unit="token"), threshold(0.6), "token"),
    case(Factor(1.0), factor(1.0)),
    case(Factor(1.3, unit="token"), factor(1.3), "token"),
    case(Klass(confidence=0.3, divergence=0.3, history=1), klass(0.3, 0.3)),
    case(Mixture(2, 0.5, plan=Raster(), rule=Margin()), mixture(0.5, 2)),
    case(Mixture(4, 0.5, plan=Raster(), rule=Margin()), mixture(0.5, 4)),
    *(case(ReMDM(4, kind, 0.4, 0.2), remdm(kind, 0.4, 4, 0.2), "token") for kind in ("cap", "rescale", "conf", "loop")),
    case(PathPlanning(2, 0.7), path_planning(0.7, 2), "token", last=2, again=True),
    case(PathPlanning(4, 0.7), path_planning(0.7, 4), "token", again=True),
]


@pytest.mark.parametrize(("sampler", "exact"), CASES)
def test_samples_have_the_exact_distribution_of_the_rule(sampler: Sampler, exact: Callable[[], torch.Tensor]) -> None:
    found = sample(MODEL, WORLD.canvas, sampler, batch=BATCH, generator=17)
    oracle.assert_distribution(oracle.counts_of(WORLD.index(found.y), len(WORLD.y)), exact())


STAND_INS = (
    "margin-token",
    "entropy-token",
    "moment-token",
    "entropy_bounded-token",
)  # of a chain: along what was drawn


@pytest.mark.parametrize("head", [FactoredHead(), ChainHead()], ids=lambda head: head.name)
@pytest.mark.parametrize(("sampler", "exact"), CASES)
def test_so_have_those_of_heads_that_draw_digits(
    head: Head,
    sampler: Sampler,
    exact: Callable[[], torch.Tensor],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Conditionals that agree with no joint distribution, in a world of six codes a token."""
    if head.chains and any(words in request.node.name for words in STAND_INS):
        pytest.skip("a chain has no joint distribution of a token's unit")
    world = digit_oracle.product_world()
    codes_of.cache_clear()
    for name, value in (
        ("WORLD", world), ("MODEL", digit_oracle.DigitTable(world.canvas, head)),
        ("DIGITS", [list(digits) for digits in itertools.product(range(2), range(3))]),
    ):  # fmt: skip
        monkeypatch.setitem(globals(), name, value)
    test_samples_have_the_exact_distribution_of_the_rule(sampler, exact)
    codes_of.cache_clear()
