"""Worlds small enough to enumerate: every quantity of the engine, computed a second time by brute force.

A world is a strictly positive joint distribution p(x_1, ..., x_L) over the tokens of a canvas, listed configuration by
configuration. From the list follow, without any code of the engine but `Codec.digits`:

    perfect(world)      log p(x_i | visible digits), by summing the configurations that agree
    likelihood_of(...)  -log p(x) and E_plan[-log p(x | plan)] by a Markov chain over sets of visible positions
    mixture(...)        the distribution of samples drawn with given plans

The engine enumerates *plans* (`exact_nelbo`); the oracle walks *states* with transition chances: the two share no step.
All denoisers are tables over the states (digits visible or masked), so they are exact in float64 and quick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from mmprime.engine import Canvas, Codec, Schedule, Span

JUNK = 3.0
LogReveal = Callable[..., Tensor]


# -------------------------------------------------------------------------------------------------------- worlds


@dataclass(frozen=True)
class World:
    """codes (K, L) all configurations, y (K, N) their digits, p (K,) float64 their probabilities."""

    canvas: Canvas
    codes: Tensor
    y: Tensor
    p: Tensor

    @property
    def entropy(self) -> float:
        return -float((self.p * self.p.log()).sum())

    def index(self, y: Tensor) -> Tensor:
        """Rows y (B, N), complete, -> configuration numbers (B,). Asserts that every row is one."""
        match = (y[:, None] == self.y[None]).all(-1)
        assert (match.sum(-1) == 1).all(), "a row is no configuration of the world"
        return match.long().argmax(-1)


def make_world(spans: Sequence[Span], seed: int, spread: float = 1.5, p: Tensor | None = None) -> World:
    """A random joint distribution (softmax of normals of deviation `spread`), or the one given."""
    canvas = Canvas(spans)
    sizes = [span.codec.num_codes for span in spans for _ in range(span.num_tokens)]
    codes = torch.tensor(list(itertools.product(*[range(size) for size in sizes])))
    if p is None:
        logits = spread * torch.randn(len(codes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        p = logits.softmax(0)
    return World(canvas, codes, _digits(canvas, codes), p)


def _digits(canvas: Canvas, codes: Tensor) -> Tensor:
    columns, token = [], 0
    for span in canvas.spans:
        for _ in range(span.num_tokens):
            columns.append(span.codec.digits[codes[:, token]])
            token += 1
    return torch.cat(columns, -1)


def pair_world(seed: int = 0) -> World:
    """Two tokens of three codes on a 2 x 2 grid (one hole): N = 4, 9 configurations."""
    return make_world([Span("text", 2, Codec.base(3, 2))], seed)


def mixed_world(seed: int = 1) -> World:
    """Two spans of different codecs (3 codes in 2 x 2, 5 codes in 3 x 2, holes in both): N = 6, 45 configurations."""
    table = torch.tensor([[2, 1], [0, 0], [1, 1], [2, 0], [0, 1]])
    spans = [Span("text", 2, Codec.base(3, 2)), Span("image", (1, 1), Codec.from_table(table, (3, 2)))]
    return make_world(spans, seed)


def plain_world(seed: int = 2) -> World:
    """One digit a token (S = 1): three tokens of three codes."""
    return make_world([Span("text", 3, Codec.base(3, 1))], seed)


def equal_bits() -> World:
    """One token of two equal fair bits: entropy ln 2."""
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    return make_world([Span("text", 1, Codec.from_table(torch.tensor([[0, 0], [1, 1]])))], 0, p=p)


# ----------------------------------------------------------------------------------------------------- denoisers


class TableDenoiser(nn.Module):
    """A denoiser that looks its logits up: table (states, L, C_max). `calls` and the like count its use."""

    def __init__(self, canvas: Canvas, table: Tensor) -> None:
        super().__init__()
        self.radix = radices_of(canvas)
        self.table = nn.Parameter(table)
        self.calls = self.forwarded = self.head_calls = self.head_tokens = 0

    def forward(self, y: Tensor, canvas: Canvas, cond: object = None) -> Tensor:
        self.calls += 1
        self.forwarded += len(y)
        return self.table[state_number(y, self.radix)]

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        self.head_calls += 1
        self.head_tokens += len(hidden)
        return hidden[:, : span.codec.num_codes]


def radices_of(canvas: Canvas) -> list[int]:
    return [b for span in canvas.spans for _ in range(span.num_tokens) for b in span.codec.radices]


def state_number(y: Tensor, radix: Sequence[int]) -> Tensor:
    number = torch.zeros(len(y), dtype=torch.int64)
    for n, b in enumerate(radix):
        number = number * (b + 1) + y[:, n] + 1
    return number


def _all_states(canvas: Canvas) -> Tensor:
    return torch.tensor(list(itertools.product(*[range(-1, b) for b in radices_of(canvas)])))


def _width(canvas: Canvas) -> int:
    return max(span.codec.num_codes for span in canvas.spans)


def perfect(world: World) -> TableDenoiser:
    """log p(x_i = c | visible digits) + const for the codes that agree with token i's own digits.

    The other codes get `JUNK`: the engine must rule them out by itself (carry-over by construction).
    """
    canvas, states = world.canvas, _all_states(world.canvas)
    agree = ((states[:, None] < 0) | (states[:, None] == world.y[None])).all(-1)
    weight = agree.double() * world.p
    table = torch.full((len(states), canvas.num_tokens, _width(canvas)), JUNK, dtype=torch.float64)
    for i in range(canvas.num_tokens):
        for c in range(int(world.codes[:, i].max()) + 1):
            mass = weight[:, world.codes[:, i] == c].sum(-1)
            table[:, i, c] = torch.where(mass > 0, mass.clamp(min=1e-300).log(), JUNK)
    return TableDenoiser(canvas, table)


def wrong(world: World, seed: int = 5, scale: float = 0.8) -> TableDenoiser:
    """The perfect denoiser with noise on every logit of every state: a model that no identity excuses."""
    table = perfect(world).table.detach()
    noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TableDenoiser(world.canvas, table + scale * noise)


def random_table(canvas: Canvas, seed: int = 6, dtype: torch.dtype = torch.float64) -> TableDenoiser:
    """Normal logits for every state, unrelated to any data."""
    size = (math.prod(b + 1 for b in radices_of(canvas)), canvas.num_tokens, _width(canvas))
    return TableDenoiser(canvas, torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype))


# ------------------------------------------------------------------------------- likelihood by walking the states


def log_reveal(denoiser: TableDenoiser, canvas: Canvas, y0: Tensor, visible: frozenset, revealed: frozenset) -> Tensor:
    """log p(the digits at `revealed` | the digits at `visible`) of rows y0 (B, N), from tables of codes: (B,)."""
    before, after = _visible_only(y0, visible), _visible_only(y0, visible | revealed)
    rows = denoiser.table.detach()[state_number(before, denoiser.radix)]
    total, token, position = torch.zeros(len(y0), dtype=torch.float64), 0, 0
    for span in canvas.spans:
        digits = span.codec.digits
        for _ in range(span.num_tokens):
            here = slice(position, position + digits.shape[1])
            logits = rows[:, token, : len(digits)].double()
            masses = []
            for state in (after[:, here], before[:, here]):
                agree = ((state[:, None] < 0) | (state[:, None] == digits)).all(-1)
                masses.append(logits.masked_fill(~agree, -math.inf).logsumexp(-1))
            total = total + masses[0] - masses[1]
            token, position = token + 1, position + digits.shape[1]
    return total


def _visible_only(y0: Tensor, positions: frozenset) -> Tensor:
    out = torch.full_like(y0, -1)
    for n in positions:
        out[:, n] = y0[:, n]
    return out


def likelihood_of(
    denoiser: TableDenoiser,
    canvas: Canvas,
    y0: Tensor,
    masking: str = "independent",
    schedule: Schedule | None = None,
    steps: int | None = None,
    given: Sequence[int] = (),
    absent: Sequence[int] = (),
    rates: Sequence[float] | None = None,
    log_p: LogReveal = log_reveal,
) -> tuple[Tensor, Tensor]:
    """(-log p(x), E_plan[-log p(x | plan)]) of rows y0, by recursion over the sets of visible positions.

    Continuous time: the next unit is drawn with chance proportional to its rate (reveal times with P(τ < t) = t^rate
    race like exponentials; equal rates for any one schedule). Finite T: at step k each masked unit is revealed with
    chance (α_k - α_{k-1}) / (1 - α_{k-1}); under nested masking a token reveals Binomial(masked, chance) digits; under
    coarse_first the chances are those of the α of each digit level, squeezed into its share of [0, 1].
    """
    everything = frozenset(range(canvas.num_subtokens)) - frozenset(absent)
    rate = list(rates or [1.0] * canvas.num_subtokens)

    @cache
    def reveal(visible: frozenset, new: frozenset) -> Tensor:
        return log_p(denoiser, canvas, y0, visible, new)

    @cache
    def walk(visible: frozenset, step: int) -> tuple[Tensor, Tensor]:
        """(p(rest | visible), expected nats of the rest)."""
        if visible == everything:
            return torch.ones(len(y0), dtype=torch.float64), torch.zeros(len(y0), dtype=torch.float64)
        masked = sorted(everything - visible)
        moves = (
            _races(canvas, masking, masked, rate) if steps is None else _steps(canvas, masking, masked, chance[step])
        )
        likelihood = nats = torch.zeros(len(y0), dtype=torch.float64)
        for probability, new in moves:
            term = reveal(visible, new)
            rest = walk(visible | new, step + 1)
            likelihood = likelihood + probability * term.exp() * rest[0]
            nats = nats + probability * (rest[1] - term)
        return likelihood, nats

    chance = [] if steps is None else _chances(canvas, masking, schedule or Schedule.linear(), steps)
    likelihood, nats = walk(frozenset(given), 0)
    return -likelihood.log(), nats


def _chances(canvas: Canvas, masking: str, schedule: Schedule, steps: int) -> list[list[float]]:
    """chance[k][n]: of revealing sub-token n at step k + 1 if still masked."""
    levels = int(canvas.digit_of.max()) + 1
    alpha = [
        schedule.alpha(torch.full((canvas.num_subtokens,), 1 - k / steps, dtype=torch.float64)).clamp(0, 1).tolist()
        for k in range(steps + 1)
    ]
    if masking == "coarse_first":
        alpha = [[min(1.0, max(0.0, levels * a - int(d))) for a, d in zip(row, canvas.digit_of)] for row in alpha]
    alpha[0], alpha[-1] = [0.0] * canvas.num_subtokens, [1.0] * canvas.num_subtokens
    return [[(b - a) / (1 - a) if a < 1 else 1.0 for a, b in zip(low, high)] for low, high in itertools.pairwise(alpha)]


def _by_token(canvas: Canvas, masked: Sequence[int]) -> list[list[int]]:
    return [list(group) for _, group in itertools.groupby(masked, key=lambda n: int(canvas.token_of[n]))]


def _races(
    canvas: Canvas, masking: str, masked: Sequence[int], rate: Sequence[float]
) -> Iterator[tuple[float, frozenset[int]]]:
    tokens = _by_token(canvas, masked)
    if masking == "coarse_first":
        coarsest = min(int(canvas.digit_of[n]) for n in masked)
        tokens = [[n] for n in masked if canvas.digit_of[n] == coarsest]
    if masking == "independent":
        tokens = [[n] for n in masked]
    events = [
        (
            rate[group[0]] * (len(group) if masking == "nested" else 1),
            frozenset(group[:1] if masking == "nested" else group),
        )
        for group in tokens
    ]
    total = sum(weight for weight, _ in events)
    yield from ((weight / total, new) for weight, new in events)


def _steps(
    canvas: Canvas, masking: str, masked: Sequence[int], chance: Sequence[float]
) -> Iterator[tuple[float, frozenset[int]]]:
    options: list[list[tuple[float, list[int]]]] = []
    for group in _by_token(canvas, masked):
        r = chance[group[0]]
        if masking == "token_synchronous":
            options.append([(1 - r, []), (r, group)])
        elif masking == "nested":
            m = len(group)
            options.append([(math.comb(m, j) * r**j * (1 - r) ** (m - j), group[:j]) for j in range(m + 1)])
        else:
            options += [[(1 - chance[n], []), (chance[n], [n])] for n in group]
    for choice in itertools.product(*options):
        probability = math.prod(c for c, _ in choice)
        if probability > 0:
            yield probability, frozenset(n for _, new in choice for n in new)


# --------------------------------------------------------------------------------------------- distributions of samples


Step = tuple[frozenset, frozenset]


def steps_of(rank: Sequence[int]) -> Iterator[Step]:
    """(visible before, revealed) of each step of one plan; sub-tokens of rank -1 are left out."""
    for k in sorted(set(rank) - {0, -1}):
        visible = frozenset(n for n, r in enumerate(rank) if 0 <= r < k)
        yield visible, frozenset(n for n, r in enumerate(rank) if r == k)


def plan_log_likelihood(denoiser: TableDenoiser, canvas: Canvas, y0: Tensor, rank: Sequence[int]) -> Tensor:
    """log p(x | one plan) of rows y0 (B, N), (B,)."""
    terms = [log_reveal(denoiser, canvas, y0, *step) for step in steps_of(rank)]
    return torch.stack(terms).sum(0) if terms else torch.zeros(len(y0), dtype=torch.float64)


def mixture(denoiser: TableDenoiser, world: World, rank: Tensor, log_p: LogReveal = log_reveal) -> Tensor:
    """The distribution (K,) of one sample from a plan drawn at random among the rows of rank (B, N)."""
    plans, counts = rank.unique(dim=0, return_counts=True)
    probs = torch.zeros(len(world.y), dtype=torch.float64)
    terms: dict[Step, Tensor] = {}
    for plan, count in zip(plans.tolist(), counts.tolist()):
        total = torch.zeros_like(probs)
        for step in steps_of(plan):
            if step not in terms:
                terms[step] = log_p(denoiser, world.canvas, world.y, *step)
            total += terms[step]
        probs += count * total.exp()
    return probs / len(rank)


# ---------------------------------------------------------------------------------------------------- statistics


def counts_of(index: Tensor, size: int) -> Tensor:
    return torch.bincount(index, minlength=size).double()


def assert_distribution(counts: Tensor, p: Tensor, z: float = 3.719) -> None:
    """Pearson chi-square of counts (K,) against p (K,), level 1e-4 (z = 3.719, Wilson-Hilferty).

    Cells with fewer than five expected counts are pooled.
    """
    assert abs(float(p.sum()) - 1) < 1e-9, f"the exact distribution sums to {float(p.sum())}"
    expected = counts.sum() * p
    small = expected < 5
    if small.any():
        counts = torch.cat([counts[~small], counts[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
    assert (counts[expected == 0] == 0).all(), "an impossible outcome was drawn"
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic, freedom = float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1
    spread = 2 / (9 * freedom)
    limit = freedom * (1 - spread + z * math.sqrt(spread)) ** 3
    assert statistic < limit, f"chi-square {statistic:.1f} on {freedom} degrees of freedom, limit {limit:.1f}"


def assert_mean(samples: Tensor, exact: float, errors: float = 4.0, floor: float = 1e-9) -> None:
    """The mean of samples (n,) lies within `errors` standard errors of `exact`."""
    mean, error = float(samples.mean()), float(samples.std()) / math.sqrt(len(samples))
    assert abs(mean - exact) <= errors * error + floor, f"mean {mean:.5f} ± {error:.5f}, exact {exact:.5f}"
