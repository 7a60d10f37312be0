"""The exact distribution of a few steps of every sampler that looks, by walking all states with all draws.

The walk sums over the whole codes drawn for every token, with what the rules of `sampler_rules` select; its result is
the distribution that samples must have.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import digit_oracle
import oracle
import pytest
import torch
from sampler_rules import (
    DIGITS,
    POSITIONS,
    Rule,
    State,
    Token,
    best,
    entropy_bounded,
    entropy_budget,
    factor,
    klass,
    mixture,
    noisy,
    path_planning,
    remdm,
    threshold,
)

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

BATCH = 4000


@dataclass(frozen=True)
class Setting:
    """Two tokens of two digits, and a model. chances(y, token, power=1.0, again=False): p(code | y) of a token; again:
    as if it were masked. digit_chance(y, n, code): p of one digit, visible or of the code drawn for its token."""

    world: oracle.World
    model: Any
    chances: Callable[..., list[float]]
    digit_chance: Callable[[State, int, State], float]

    @cached_property
    def digits(self) -> list[list[int]]:
        """Those of each code."""
        codec = self.world.canvas.spans[0].codec
        return codec.encode(torch.arange(codec.num_codes)).tolist()


def softmax_setting() -> Setting:
    world = oracle.pair_world(3)  # three codes a token
    model = oracle.wrong(world)
    digits = world.canvas.spans[0].codec.digits.tolist()

    @cache
    def chances(y: State, token: int, power: float = 1.0, again: bool = False) -> list[float]:
        logits = model.table.detach()[oracle.state_number(torch.tensor([y]), model.radix)[0], token, : len(digits)]
        agrees = [again or all(y[n] in (-1, d) for n, d in zip(POSITIONS[token], code)) for code in digits]
        return (power * logits).masked_fill(~torch.tensor(agrees), -math.inf).softmax(0).tolist()

    @cache
    def digit_chance(y: State, n: int, code: State) -> float:
        level, own = n % 2, y[n - n % 2 : n - n % 2 + 2]
        alone = [-1 if j == level else digit for j, digit in enumerate(own)]
        value = code[level] if own[level] < 0 else own[level]
        logits = model.table.detach()[oracle.state_number(torch.tensor([y]), model.radix)[0], n // 2, : len(digits)]
        fits = [all(have in (-1, digit) for have, digit in zip(alone, row)) for row in digits]
        weights = (logits.exp() * torch.tensor(fits)).tolist()
        return sum(weight for weight, row in zip(weights, digits) if row[level] == value) / sum(weights)

    return Setting(world, model, chances, digit_chance)


@cache
def digits_setting(head: Head) -> Setting:
    """Conditionals that agree with no joint distribution, in a world of six codes a token."""
    world = digit_oracle.product_world()
    model = digit_oracle.DigitTable(world.canvas, head)
    chances, digit_chance = (cache(partial(of, model)) for of in (digit_oracle.code_chances, digit_oracle.digit_chance))
    return Setting(world, model, chances, digit_chance)


def described(setting: Setting, y: State, token: int, code: int, unit: str) -> Token:
    """The unit of a token: its next masked digit, or all of them."""
    masked = tuple(n for n in POSITIONS[token] if y[n] < 0)
    own = masked[:1] if unit == "digit" else masked
    values = [tuple(digits[n - 2 * token] for n in own) for digits in setting.digits]
    probs: dict[tuple[int, ...], float] = defaultdict(float)
    if unit == "digit":
        radices = setting.world.canvas.spans[0].codec.radices
        probs.update({(d,): 0.0 for d in range(radices[own[0] - 2 * token])})
    for value, p in zip(values, setting.chances(y, token)):
        probs[value] += p
    return Token(own, dict(probs), values[code])


def as_masked(setting: Setting, y: State, token: int) -> Token:
    """An unmasked token, of which the model sees the value but no code is ruled out."""
    chances = setting.chances(y, token, again=True)
    own = y[2 * token : 2 * token + 2]
    return Token(POSITIONS[token], {tuple(d): p for d, p in zip(setting.digits, chances)}, own)


def distribution(
    setting: Setting, rule: Rule, unit: str = "digit", power: float = 1.0, last: int = 4, again: bool = False
) -> torch.Tensor:
    """The distribution (K,) of samples. again: unmasked tokens are described too, as if they were masked. unit "each":
    every digit is described, masked or not."""
    now: dict[tuple[State, Any], float] = {((-1,) * 4, None): 1.0}
    for step in range(1, last + 1):
        after: dict[tuple[State, Any], float] = defaultdict(float)
        for (y, memory), mass in now.items():
            whole = {t for t in POSITIONS if all(y[n] >= 0 for n in POSITIONS[t])}
            draws = [list(enumerate(setting.chances(y, t, power))) for t in POSITIONS]
            for drawn in itertools.product(*draws):
                chance = mass * math.prod(p for _, p in drawn)
                if chance == 0:
                    continue
                if unit == "each":
                    codes = [tuple(setting.digits[number]) for number, _ in drawn]
                    tokens = {n: Token((n,), {(0,): setting.digit_chance(y, n, codes[n // 2])}, (0,)) for n in range(4)}
                else:
                    tokens = {t: described(setting, y, t, drawn[t][0], unit) for t in POSITIONS if t not in whole}
                if again:
                    tokens |= {t: as_masked(setting, y, t) for t in whole}
                for share, reveal, remask, remembered in rule(step, y, tokens, memory):
                    new = list(y)
                    for n in reveal:
                        new[n] = setting.digits[drawn[n // 2][0]][n % 2]
                    for n in remask:
                        new[n] = -1
                    after[tuple(new), remembered] += chance * share
        now = after
    total: dict[State, float] = defaultdict(float)
    for (y, _), mass in now.items():
        total[y] += mass
    return torch.tensor([total[tuple(row)] for row in setting.world.y.tolist()], dtype=torch.float64)


def case(sampler: Sampler, rule: Rule, unit: str = "digit", **options: Any) -> Any:
    words = [sampler.name, unit, *(str(getattr(sampler, name)) for name in ("steps", "kind") if hasattr(sampler, name))]
    return pytest.param(sampler, lambda setting: distribution(setting, rule, unit, **options), id="-".join(words))


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
    *(
        case(ReMDM(3, kind, 0.6, 0.2, unit="digit"), remdm(kind, 0.6, 3, 0.2, DIGITS), "each", last=3)
        for kind in ("cap", "rescale", "conf", "loop")
    ),
    case(PathPlanning(2, 0.7, unit="digit"), path_planning(0.7, 2, DIGITS), "each", last=2),
    case(PathPlanning(4, 1.0, unit="digit"), path_planning(1.0, 4, DIGITS), "each"),
]


Exact = Callable[[Setting], torch.Tensor]
SOFTMAX = softmax_setting()


def assert_exact(setting: Setting, sampler: Sampler, exact: Exact) -> None:
    found = sample(setting.model, setting.world.canvas, sampler, batch=BATCH, generator=18)
    size = len(setting.world.y)
    oracle.assert_distribution(oracle.counts_of(setting.world.index(found.y), size), exact(setting))


@pytest.mark.parametrize(("sampler", "exact"), CASES)
def test_samples_have_the_exact_distribution_of_the_rule(sampler: Sampler, exact: Exact) -> None:
    assert_exact(SOFTMAX, sampler, exact)


STAND_INS = ("margin-token", "entropy-token", "moment-token", "entropy_bounded-token")


@pytest.mark.parametrize("head", [FactoredHead(), ChainHead()], ids=lambda head: head.name)
@pytest.mark.parametrize(("sampler", "exact"), CASES)
def test_so_have_those_of_heads_that_draw_digits(
    head: Head, sampler: Sampler, exact: Exact, request: pytest.FixtureRequest
) -> None:
    if head.chains and any(words in request.node.name for words in STAND_INS):
        pytest.skip("a chain has no joint distribution of a token's unit: it is described along what was drawn")
    assert_exact(digits_setting(head), sampler, exact)
