"""Likelihood numbers of a model on data, each under its own name with its standard error.

    nats/token = Σ_i NELBO_i / Σ_i tokens_i        bits per byte = Σ_i NELBO_i / (ln 2 · Σ_i bytes_i)
    perplexity = exp(nats/token), exp(nats/word)   s.e. of a ratio r: sqrt(n/(n-1) Σ_i (a_i - r·b_i)²) / Σ_i b_i

NELBO_i is an unbiased estimate for example i, so every figure but the perplexities (convex functions of one) is an
unbiased bound up to its standard error. Masked counts are stratified over a batch, which makes the true error smaller
than the one printed. A caption is a row of its tokens, an end and padding. NELBO_i is that of the whole row: the model
does not know the length, so padding has its price. It is counted in tokens of the text and the end alone, since the end
decides the padding; the unit then says "(text and end)". Rows of packed documents hold no padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmprime.engine import Canvas, Condition, Denoiser, Rows, Wrapper, generator_of
from mmprime.io import bar

from .metric import Measure
from .quantities import Bounds, Quantity
from .tasks import EvaluationTask, choose_tasks, evaluation_tasks

MIN_EXAMPLES = 32  # before a standard error is believed enough to stop on it
MAX_ROUNDS = 64


@dataclass(frozen=True)
class Sizes:
    """Sizes of each example: UTF-8 bytes and words of its text (n,), pixel values of an image; text_tokens (n,): of its
    text with the end, where padding follows (None: the text span holds no padding)."""

    text_bytes: Tensor | None = None
    pixel_values: int | None = None
    text_words: Tensor | None = None
    text_tokens: Tensor | None = None

    def tokens(self, task: EvaluationTask, canvas: Canvas, count: int) -> Tensor:
        """(count,) tokens scored in each of the first examples, padding left out."""
        positions = torch.full((count,), task.num_tokens(canvas))
        if not self.leaves_padding_out(task):
            return positions
        assert self.text_tokens is not None
        return positions - canvas.span("text").num_tokens + self.text_tokens[:count].cpu()

    def leaves_padding_out(self, task: EvaluationTask) -> bool:
        """Whether a text with padding is among what the task scores."""
        return self.text_tokens is not None and "text" in task.scored

    def counted(self, task: EvaluationTask) -> str:
        """What is counted where that is not every token scored: " (text and end)"; "" elsewhere."""
        if not self.leaves_padding_out(task):
            return ""
        return " (text and end)" if task.scored == ("text",) else " (codes, text and end)"


@dataclass(frozen=True)
class Effort:
    """How much to spend. samples: draws averaged for each example at a time. precision: go on, first through the
    examples, then with further draws for all of them (at most 64 rounds), until the standard error in nats per token
    is no larger; None is one round. Stopping there makes the printed error slightly too small.
    progress: show a bar with the time left."""

    samples: int = 1
    seed: int = 0
    batch: int = 64
    precision: float | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if min(self.samples, self.batch) < 1:
            raise ValueError(f"samples and batch must be at least 1, got {self.samples} and {self.batch}")
        if self.precision is not None and not self.precision > 0:
            raise ValueError(f"precision must be > 0 nats per token, got {self.precision}")


@dataclass(frozen=True)
class ScoredRows:
    """Rows to be scored: y (n, N); cond: (n, ...) tensors by name, as the model takes them; sizes of the examples."""

    y: Tensor
    cond: Condition | None = None
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True)
class Estimate:
    """nats (n,) float64 of the first n examples, and their tokens that are counted; nfe: forward passes that one of
    them took, in the mean."""

    nats: Tensor
    tokens: Tensor
    nfe: float

    @property
    def per_token(self) -> tuple[float, float | None]:
        """Nats per token with its standard error."""
        return ratio(self.nats, self.tokens)


class Counted(Wrapper):
    """The same denoiser, adding up the forward passes that its rows take."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.passes_taken = 0

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        self.passes_taken += int(self.denoiser.passes(y, cond).sum())
        return self.denoiser(y, canvas, cond)


def ratio(amounts: Tensor, sizes: Tensor) -> tuple[float, float | None]:
    """Σ amounts / Σ sizes of n examples and its standard error (None for one example)."""
    amounts, sizes = amounts.double(), sizes.double()
    value = float(amounts.sum() / sizes.sum())
    count = len(amounts)
    if count < 2:
        return value, None
    residual = (amounts - value * sizes).square().sum()
    return value, float((residual * count / (count - 1)).sqrt() / sizes.sum())


@torch.no_grad()
def estimate(
    denoiser: Denoiser,
    canvas: Canvas,
    data: ScoredRows,
    task: EvaluationTask,
    quantity: Quantity,
    effort: Effort | None = None,
) -> Estimate:
    """The quantity for rows (n, N), as many of them and as often as `effort` says. The random numbers depend on its
    seed and on the quantity alone. Raises ValueError on masked sub-tokens that are scored, and as `nelbo`."""
    effort, counted = effort or Effort(), Counted(denoiser)
    rows = Rows.of(canvas, data.y, task.given, task.absent, data.cond)
    generator = generator_of(quantity.seed(effort.seed))
    total, count = torch.zeros(2, len(rows), dtype=torch.float64)
    tokens = data.sizes.tokens(task, canvas, len(rows))
    rounds = MAX_ROUNDS if effort.precision is not None and quantity.is_random else 1
    for index in _batches(len(rows), rounds, effort, quantity.name(task.name)):
        nats = quantity.nats(counted, canvas, rows[index.to(rows.y.device)], effort.samples, generator)
        total[index] += nats.double().cpu()
        count[index] += 1
        if _precise(total, count, tokens, effort.precision):
            break
    scored = count > 0
    return Estimate(total[scored] / count[scored], tokens[scored], counted.passes_taken / int(scored.sum()))


def _batches(examples: int, rounds: int, effort: Effort, name: str) -> Iterator[Tensor]:
    for _ in range(rounds):
        yield from bar(torch.arange(examples).split(effort.batch), name, "batch", effort.progress)


def _precise(total: Tensor, count: Tensor, tokens: Tensor, precision: float | None) -> bool:
    scored = count > 0
    if precision is None or int(scored.sum()) < MIN_EXAMPLES:
        return False
    error = ratio(total[scored] / count[scored], tokens[scored])[1]
    return error is not None and error <= precision


def measures(
    denoiser: Denoiser,
    canvas: Canvas,
    data: ScoredRows,
    bounds: Bounds,
    effort: Effort | None = None,
    per_example: dict[str, Tensor] | None = None,
) -> Iterator[Measure]:
    """All numbers of `bounds`, one task after the other.

    per_example: gets the nats (n,) behind each metric, for differences in pairs. Raises ValueError on an unknown name,
    a box outside the grid, powers that do not fit, or data of no example.
    """
    effort = effort or Effort()
    if not len(data.y):
        raise ValueError("no example to score")
    quantities = bounds.quantities()
    for quantity in quantities:
        quantity.check(canvas)
    for task in choose_tasks(evaluation_tasks(canvas, bounds.boxes), bounds.tasks):
        for quantity in quantities:
            estimated, name = estimate(denoiser, canvas, data, task, quantity, effort), quantity.name(task.name)
            if per_example is not None:
                per_example[name] = estimated.nats
            for value, error, unit in _in_units(estimated, quantity, task, canvas, data.sizes):
                yield Measure(name, value, error, unit, len(estimated.nats), estimated.nfe, effort.seed)


def _in_units(
    estimated: Estimate, quantity: Quantity, task: EvaluationTask, canvas: Canvas, sizes: Sizes
) -> Iterator[tuple[float, float | None, str]]:
    """(value, s.e., unit) of one estimate in every unit that fits it; the joint loss has one only."""
    nats, tokens, counted = estimated.nats, estimated.tokens, sizes.counted(task)
    if quantity.kind == "joint_loss":
        yield *estimated.per_token, f"nats/token{counted}, no bound"
        return
    yield *estimated.per_token, f"nats/token{counted}"
    bits, count = nats / math.log(2), len(nats)
    if task.scored == ("image",):
        yield *ratio(bits, tokens), "bits/code"
        if sizes.pixel_values and not (task.given & canvas.mask("image")).any():
            yield *ratio(bits, torch.full_like(bits, sizes.pixel_values)), "bits/dimension (of codes)"
    if task.scored == ("text",):
        bound = "" if quantity.kind == "nll" else " (bound)"
        yield *_perplexity(nats, tokens), f"perplexity{counted}{bound}"
        if sizes.text_words is not None:
            yield *_perplexity(nats, sizes.text_words[:count]), f"perplexity per word{bound}"
        if sizes.text_bytes is not None:
            yield *ratio(bits, sizes.text_bytes[:count]), "bits/byte"


def uniform_nats(canvas: Canvas, task: EvaluationTask) -> float:
    """Σ ln C over the positions scored, padding among them: what a model that knows nothing pays for a row."""
    free = ~(task.given | task.absent)
    counts = [len(canvas.token_of[free & canvas.mask(span.name)].unique()) for span in canvas.spans]
    return sum(count * math.log(span.codec.num_codes) for count, span in zip(counts, canvas.spans))


def _perplexity(nats: Tensor, sizes: Tensor) -> tuple[float, float | None]:
    """exp of a ratio, its error to first order."""
    value, error = ratio(nats, sizes)
    return math.exp(value), None if error is None else math.exp(value) * error
