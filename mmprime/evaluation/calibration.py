"""Calibration: is a denoiser right as often as it says?

A state of an example masks m of its n units, m uniform in 1..n, as the continuous NELBO does. What the masking process
may reveal next (a digit, or a whole token) is predicted: v* = argmax p(v | visible), with confidence p(v* | visible).
Over K bins of equal width, with gap g_b = (share right) - (mean confidence) and share w_b of the predictions in bin b,

    ECE = Σ_b w_b |g_b|                      expected calibration error (Guo et al., arXiv 1706.04599)
    chance = Σ_b w_b sqrt(2/π) s.e.(g_b)     what a calibrated model shows on as much data: E|N(0, s)| = s sqrt(2/π)
    excess = ECE - chance                    about 0 for a calibrated model
    overconfidence = mean confidence - share right

What is masked never depends on the data, so the perfect denoiser is calibrated at every state. Predictions of one
example depend on each other: examples, not predictions, are resampled for standard errors, and s.e.(g_b) sums over
the examples first. In a bin whose predictions are all right, or all wrong, that spread says nothing, and the s.e. is
that of a calibrated model, sqrt(Σ c (1 - c)) / n over its n confidences c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmprime.engine import (
    MASK_ID,
    BaseDenoiser,
    Canvas,
    Denoiser,
    Masking,
    Rows,
    completed,
    generator_of,
    masking_of,
    mix,
)
from mmprime.engine.denoiser import chunks
from mmprime.engine.heads import Request, Tokens
from mmprime.engine.samplers.base import chance
from mmprime.io import bar

from .likelihood import Effort
from .metric import Measure

RESAMPLES = 400
_STREAM = 41


@dataclass(frozen=True)
class Predictions:
    """confidence (M,) float64 in (0, 1]; right (M,) bool; example (M,) the row each prediction belongs to.

    states: how many states of each example were looked at, with a forward pass each.
    """

    confidence: Tensor
    right: Tensor
    example: Tensor
    states: int = 1


@dataclass(frozen=True)
class Bins:
    """Of each bin that is not empty: its predictions' count, mean confidence, share right and the s.e. of its gap.

    ece, excess, overconfidence: (value, standard error).
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor
    gap_error: Tensor
    ece: tuple[float, float]
    excess: tuple[float, float]
    overconfidence: tuple[float, float]


@torch.no_grad()
def predict(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor | Rows,
    masking: str | Masking = "independent",
    effort: Effort | None = None,
) -> Predictions:
    """Predictions at `effort.samples` random states of each of n rows.

    Raises ValueError on an unknown masking, masked sub-tokens in y0 that are scored, or no example.
    """
    rows, process, effort = Rows.of(canvas, y0), masking_of(masking), effort or Effort()
    if not len(rows):
        raise ValueError("no example to predict")
    generator = generator_of(mix(effort.seed, _STREAM, process.seed))
    parts = []
    states = torch.arange(len(rows)).repeat(effort.samples)
    for index in bar(states.split(effort.batch), "predictions", "batch", effort.progress):
        predicted = _predict_rows(denoiser, canvas, rows[index.to(rows.y.device)], process, generator)
        parts.append((predicted[0], predicted[1], index[predicted[2]]))
    confidence, right, example = (torch.cat(part) for part in zip(*parts))
    return Predictions(confidence, right, example, effort.samples)


def _predict_rows(
    denoiser: Denoiser, canvas: Canvas, rows: Rows, process: Masking, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(confidence, right, row) of the predictions at one state of each row."""
    y0, device = rows.y, rows.y.device
    u = torch.rand(y0.shape, generator=generator, dtype=torch.float64).to(device)
    order = process.order(canvas, u, rows.given, rows.absent)
    share = torch.rand(len(y0), 1, generator=generator, dtype=torch.float64).to(device)
    masked, rate = process.state_by_count(canvas, order, share)
    y_t = torch.where(masked | rows.absent, MASK_ID, y0)
    network = completed(denoiser)
    states = network(y_t, canvas, rows.cond)
    guesses: list[tuple[Tensor, Tensor, Tensor]] = []
    for after in process.next_reveals(canvas, y0, y_t, masked, rate).after:
        for span in canvas.spans:
            visible, aim = canvas.view(y_t, span.name), canvas.view(after, span.name)
            row, token = (aim != visible).any(-1).nonzero(as_tuple=True)
            hidden = states[:, canvas.token_slice(span.name)][row, token]
            before, target = visible[row, token], aim[row, token]
            for part in chunks(len(row), network.head(span).size(span)):
                guess = _guess(network, Tokens(span, hidden[part], before[part], token[part]), target[part])
                guesses.append((*guess, row[part].cpu()))
    confidence, right, index = (torch.cat(part) for part in zip(*guesses))
    return confidence, right, index


def _guess(network: BaseDenoiser, tokens: Tokens, aim: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence (m,) and whether it is right (m,) of the likeliest value of the digits that `aim` (m, S) reveals.

    Either all masked digits of a token are revealed or one digit, the rest of the masked being summed over.
    """
    head, new = network.head(tokens.span), aim != tokens.visible
    confidence = torch.empty(len(aim), dtype=torch.float64)
    right = torch.empty(len(aim), dtype=torch.bool)
    whole = (aim >= 0).all(-1)
    for unit, some in (("token", whole), ("digit", ~whole)):
        mine = some.nonzero()[:, 0]
        if not len(mine):
            continue
        u = torch.zeros(len(mine), head.num_uniforms(tokens.span), dtype=torch.float64, device=aim.device)
        request = Request(new[mine], u, temperature=0.0, unit=unit, strict=False)
        guess = head.sample(network, tokens[mine], request)
        assert guess.unit is not None
        if unit == "token":
            sure, hit = chance(*guess.unit)[:, 0], (guess.digits == aim[mine]).all(-1)
        else:
            sure, best = guess.unit.probs[:, 0].max(-1)
            hit = best == aim[mine, request.first]
        confidence[mine.cpu()], right[mine.cpu()] = sure.cpu(), hit.cpu()
    return confidence.clamp(max=1.0), right & (confidence > 0)  # 0: no code is possible, so none is right


def bin_predictions(predictions: Predictions, bins: int = 15, seed: int = 0) -> Bins:
    """The numbers of the module's head, with standard errors from resampled examples.

    Raises ValueError on fewer than 2 examples or 2 bins.
    """
    examples, owner = predictions.example.unique(return_inverse=True)
    if len(examples) < 2 or bins < 2:
        raise ValueError(f"calibration needs at least 2 examples and 2 bins, got {len(examples)} and {bins}")
    sure = predictions.confidence
    at = (sure * bins).long().clamp(max=bins - 1)
    cell = owner * bins + at
    sums = torch.zeros(3, len(examples) * bins, dtype=torch.float64)
    for row, values in enumerate((torch.ones_like(sure), sure, predictions.right.double())):
        sums[row].index_add_(0, cell, values)
    by_example = sums.view(3, len(examples), bins)
    count, confidence, hits = by_example.sum(1)
    filled = count > 0
    gap = torch.where(filled, (hits - confidence) / count.clamp(min=1), 0.0)
    residual = by_example[2] - by_example[1] - gap * by_example[0]  # of each example in each bin
    correction = len(examples) / (len(examples) - 1)
    spread = correction * residual.square().sum(0)
    uncertain = torch.zeros(bins, dtype=torch.float64).index_add_(0, at, sure * (1 - sure))
    gap_error = torch.where((hits == 0) | (hits == count), uncertain, spread).sqrt() / count.clamp(min=1)
    ece = _ece(count, gap)
    chance = float((count / count.sum() * gap_error).sum()) * math.sqrt(2 / math.pi)
    again, over = _resampled(by_example, seed)
    return Bins(
        count[filled].long(),
        (confidence / count.clamp(min=1))[filled],
        (hits / count.clamp(min=1))[filled],
        gap_error[filled],
        (float(ece), float(again.std())),
        (float(ece) - chance, float(again.std())),
        (float((confidence.sum() - hits.sum()) / count.sum()), float(over.std())),
    )


def _ece(count: Tensor, gap: Tensor) -> Tensor:
    """Σ_b w_b |g_b| over the last axis."""
    return (count * gap.abs()).sum(-1) / count.sum(-1)


def _resampled(by_example: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """ECE and overconfidence (RESAMPLES,) of examples sampled again with replacement; by_example (3, n, bins)."""
    examples = by_example.shape[1]
    generator = generator_of(mix(seed, _STREAM))
    chosen = torch.randint(examples, (RESAMPLES, examples), generator=generator)
    times = torch.zeros(RESAMPLES, examples, dtype=torch.float64)
    times.scatter_add_(1, chosen, torch.ones(chosen.shape, dtype=torch.float64))
    count, confidence, hits = times @ by_example
    gap = (hits - confidence) / count.clamp(min=1)
    return _ece(count, gap), (confidence - hits).sum(-1) / count.sum(-1)


def calibration_rows(name: str, predictions: Predictions, bins: Bins, seed: int = 0) -> Iterator[Measure]:
    """Rows of one curve: ECE, its excess over chance, overconfidence, then the share right of each bin."""
    total, nfe = len(predictions.confidence), predictions.states
    yield Measure(f"{name}: calibration error (ECE)", *bins.ece, "probability", total, nfe, seed)
    yield Measure(f"{name}: calibration error beyond chance", *bins.excess, "probability", total, nfe, seed)
    yield Measure(f"{name}: overconfidence", *bins.overconfidence, "probability", total, nfe, seed)
    for count, confidence, accuracy, error in zip(
        bins.count.tolist(), bins.confidence.tolist(), bins.accuracy.tolist(), bins.gap_error.tolist()
    ):
        yield Measure(f"{name}: share right at confidence {confidence:.4f}", accuracy, error, "share", count, nfe, seed)
