"""Worlds small enough to enumerate: every quantity of the engine, computed a second time by brute force.

A world is a strictly positive joint distribution p(x_1, ..., x_L) over the tokens of a canvas, listed configuration by
configuration. From the list follow, without any code of the engine but `Codec.digits`:

    perfect(world)      log p(x_i | visible digits), by summing the configurations that agree
    mixture(...)        the distribution of samples drawn with given plans

and likelihoods (`oracle_walk`). All denoisers are tables over the states (digits visible or masked), so they are exact
in float64 and quick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmprime.engine import Canvas, Codec, Span

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


# --------------------------------------------------------------------------------------------- distributions of samples


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
