"""Likelihood numbers of a model on data, each under its own name with its standard error.

    nats/token = Σ_i NELBO_i / Σ_i tokens_i        bits per byte = Σ_i NELBO_i / (ln 2 · Σ_i bytes_i)
    perplexity = exp(nats/token), exp(nats/word)   s.e. of a ratio r: sqrt(n/(n-1) Σ_i (a_i - r·b_i)²) / Σ_i b_i

NELBO_i is an unbiased estimate for example i, so every figure but the perplexities (convex functions of one) is an
unbiased bound up to its standard error. Hidden counts are stratified over a batch, which makes the true error smaller
than the one printed. A caption is a row of its tokens, an end and padding. NELBO_i is that of the whole row: the model
does not know the length, so padding has its price. It is counted in tokens of the text and the end alone, since the end
decides the padding; the unit then says "(text and end)". Rows of packed documents hold no padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmprime.engine import LAWS, Canvas, Condition, Denoiser, Span, generator_of, mix
from mmprime.engine.denoiser import completed
from mmprime.io import bar

from .metric import Measure
from .quantities import Quantity, list_quantities
from .tasks import Box, Task, choose, tasks

__all__ = ["Effort", "Sizes", "Task", "choose", "estimate", "measures", "ratio", "tasks", "uniform_nats"]

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

    def tokens(self, task: Task, canvas: Canvas, count: int) -> Tensor:
        """(count,) tokens scored in each of the first examples, padding left out."""
        positions = torch.full((count,), task.num_tokens(canvas))
        if not self.leaves_padding_out(task):
            return positions
        assert self.text_tokens is not None
        return positions - canvas.span("text").num_tokens + self.text_tokens[:count].cpu()

    def leaves_padding_out(self, task: Task) -> bool:
        """Whether a text with padding is among what the task scores."""
        return self.text_tokens is not None and "text" in task.scored

    def counted(self, task: Task) -> str:
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
class Estimate:
    """nats (n,) float64 of the first n examples; nfe: forward passes that one of them took, in the mean."""

    nats: Tensor
    nfe: float


class Counted:
    """The same denoiser, adding up the forward passes that its rows take."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.passes_taken = completed(denoiser), 0

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        self.passes_taken += int(self.denoiser.passes(y, cond).sum())
        return self.denoiser(y, canvas, cond)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return self.denoiser.logits(hidden, span)


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
    y0: Tensor,
    task: Task,
    quantity: Quantity,
    effort: Effort | None = None,
    cond: Condition | None = None,
    sizes: Sizes | None = None,
) -> Estimate:
    """The quantity for rows of y0 (n, N), as many of them and as often as `effort` says; sizes: tokens of each row."""
    effort, counted = effort or Effort(), Counted(denoiser)
    generator = generator_of(
        mix(effort.seed, quantity.steps or 0, LAWS.index(quantity.law), quantity.kind == "joint_loss")
    )
    total, count = torch.zeros(2, len(y0), dtype=torch.float64)
    tokens = (sizes or Sizes()).tokens(task, canvas, len(y0))
    rounds = MAX_ROUNDS if effort.precision is not None and quantity.is_random else 1
    for _ in range(rounds):
        parts = torch.arange(len(y0)).split(effort.batch)
        for rows in bar(parts, quantity.name(task.name), "batch", effort.progress):
            own = None if cond is None else {name: value[rows] for name, value in cond.items()}
            nats = quantity.draw(counted, canvas, y0[rows], task, effort.samples, generator, own)
            total[rows] += nats.double().cpu()
            count[rows] += 1
            if _precise(total, count, tokens, effort.precision):
                break
        else:
            continue
        break
    seen = count > 0
    return Estimate(total[seen] / count[seen], counted.passes_taken / int(seen.sum()))


def _precise(total: Tensor, count: Tensor, tokens: Tensor, precision: float | None) -> bool:
    seen = count > 0
    if precision is None or int(seen.sum()) < MIN_EXAMPLES:
        return False
    error = ratio(total[seen] / count[seen], tokens[seen])[1]
    return error is not None and error <= precision


def measures(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    law: str,
    steps: Sequence[int] = (),
    laws: Sequence[str] = LAWS,
    *,
    estimators: Sequence[str] = ("count",),
    orders: Sequence[str] = (),
    finite_laws: Sequence[str] = (),
    boxes: Sequence[Box] = (),
    place_powers: Sequence[float] = (),
    only: Iterable[str] | None = None,
    sizes: Sizes | None = None,
    cond: Condition | None = None,
    effort: Effort | None = None,
    per_example: dict[str, Tensor] | None = None,
) -> Iterator[Measure]:
    """All numbers of y0 (n, N), one task after the other; see `list_quantities`.

    law: the law of plans the model was trained on. only: names of the tasks wanted. boxes: of image codes.
    per_example: gets the nats (n,) behind each metric, for differences in pairs. place_powers: a power for each digit
    place (`Schedule.places`), none for no such bounds.
    Raises ValueError on an unknown name, a box outside the grid, powers that do not fit, or data of no example.
    """
    effort, sizes = effort or Effort(), sizes or Sizes()
    if not len(y0):
        raise ValueError("no example to score")
    quantities = list_quantities(law, laws, steps, estimators, orders, finite_laws, place_powers)
    for task in choose(tasks(canvas, boxes), only):
        for quantity in quantities:
            found = estimate(denoiser, canvas, y0, task, quantity, effort, cond, sizes)
            if per_example is not None:
                per_example[quantity.name(task.name)] = found.nats
            for value, error, unit in _in_units(found.nats, quantity, task, canvas, sizes):
                yield Measure(quantity.name(task.name), value, error, unit, len(found.nats), found.nfe, effort.seed)


def _in_units(
    nats: Tensor, quantity: Quantity, task: Task, canvas: Canvas, sizes: Sizes
) -> Iterator[tuple[float, float | None, str]]:
    """(value, s.e., unit) of one estimate in every unit that fits it; the joint loss has one only."""
    tokens, counted = sizes.tokens(task, canvas, len(nats)), sizes.counted(task)
    if quantity.kind == "joint_loss":
        yield *ratio(nats, tokens), f"nats/token{counted}, no bound"
        return
    yield *ratio(nats, tokens), f"nats/token{counted}"
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


def uniform_nats(canvas: Canvas, task: Task) -> float:
    """Σ ln C over the positions scored, padding among them: what a model that knows nothing pays for a row."""
    free = ~(task.given | task.absent)
    counts = [len(canvas.token_of[free & canvas.mask(span.name)].unique()) for span in canvas.spans]
    return sum(count * math.log(span.codec.num_codes) for count, span in zip(counts, canvas.spans))


def _perplexity(nats: Tensor, sizes: Tensor) -> tuple[float, float | None]:
    """exp of a ratio, its error to first order."""
    value, error = ratio(nats, sizes)
    return math.exp(value), None if error is None else math.exp(value) * error
