"""What a traced rollout tells: when each digit became known, and how sure the model was of it.

A *reveal* is one token at one step: the digits it reveals there come from one distribution over whole codes, given what
is visible, so they share its entropy (nats) and the probability of the code drawn (confidence). Of a digit that was
masked again only the last reveal is recorded. Guidance, temperature and top-p are part of the distribution; at
temperature 0 nothing is left of it, and every entropy is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from mmprime.engine import MASK_ID, Canvas, Denoiser, Trace, completed
from mmprime.engine.denoiser import chunks
from mmprime.engine.heads import Request, Tokens

from .sampling import Result


@dataclass(frozen=True)
class StepCurve:
    """A quantity along the steps 1..K: mean (K,) over the examples that revealed something, NaN without any; error (K,)
    one standard error of it over the examples, NaN with fewer than two."""

    mean: Tensor
    error: Tensor


def trace_of(result: Result) -> Trace:
    """The trace of a sample. Raises ValueError where none was asked for."""
    if result.trace is None:
        raise ValueError("the sample was not traced; sample with trace=True")
    return result.trace


def frames(result: Result) -> Tensor:
    """(K + 1, B, N): the start, with only what was given, and y after each step. Raises ValueError without a trace."""
    return torch.cat([result.y.masked_fill(result.rank != 0, MASK_ID)[None], trace_of(result).y])


def step_curves(result: Result, canvas: Canvas) -> tuple[StepCurve, StepCurve]:
    """Entropy and confidence along the steps. Raises ValueError without a trace."""
    trace = trace_of(result)
    entropy, confidence = (
        step_curve(values, result.rank, canvas, len(trace.y)) for values in (trace.entropy, trace.confidence)
    )
    return entropy, confidence


def reveal_maps(rank: Tensor, canvas: Canvas, name: str = "image") -> Tensor:
    """rank (B, N) -> (B, 1 + S, h, w) float64: the mean rank of the digits of each token, then the rank of each digit.

    NaN where a digit was never revealed. Raises ValueError on a span without a grid.
    """
    span = canvas.span(name)
    if span.grid is None:
        raise ValueError(f"span {name!r} has no grid to draw a map on")
    step = canvas.view(rank, name).double()
    step = step.masked_fill(step < 0, torch.nan)
    maps = torch.cat([step.mean(-1, keepdim=True), step], -1)
    return rearrange(maps, "b (h w) s -> b s h w", h=span.grid[0])


def step_curve(values: Tensor, rank: Tensor, canvas: Canvas, steps: int) -> StepCurve:
    """Values (B, N) of the digits, such as their entropy, along the steps: the mean over the reveals of an example,
    then over examples. A token that reveals several digits at once counts once."""
    drawn = rank > 0
    reveal = canvas.token_of.to(rank.device) * (steps + 1) + rank.clamp(min=0)  # digits of a reveal share this number
    size = torch.zeros(len(rank), canvas.num_tokens * (steps + 1), dtype=torch.float64, device=rank.device)
    size.scatter_add_(1, reveal, drawn.double())
    weight = drawn / size.gather(1, reveal).clamp(min=1)
    total, count = torch.zeros(2, len(rank), steps + 1, dtype=torch.float64, device=rank.device)
    total.scatter_add_(1, rank.clamp(min=0), weight * torch.where(drawn, values.double(), 0.0))
    count.scatter_add_(1, rank.clamp(min=0), weight)
    each = (total / count)[:, 1:]  # (B, K), NaN where an example revealed nothing
    examples = (~each.isnan()).sum(0)
    mean = each.nanmean(0)
    spread = (each - mean).square().nansum(0) / (examples - 1)
    return StepCurve(mean, torch.where(examples > 1, (spread / examples).sqrt(), torch.nan))


@torch.no_grad()
def likeliest(model: Denoiser, canvas: Canvas, y: Tensor, name: str) -> Tensor:
    """Rows y (B, N) as codes (B, L) of a span; -1 where nothing of a token is known, or no code is possible.

    A partly known token is the likeliest code that agrees with what is known of it, given all that is visible: one
    forward pass of the rows that have such tokens.
    """
    span = canvas.span(name)
    view = canvas.view(y, name)
    known = view >= 0
    codes = torch.full(view.shape[:2], -1, dtype=torch.int64, device=y.device)
    whole = known.all(-1)
    codes[whole] = span.codec.decode(view[whole])
    partly = known.any(-1) & ~whole
    rows = partly.any(-1).nonzero()[:, 0]
    if len(rows):
        network = completed(model)
        hidden = network(y[rows], canvas)[:, canvas.token_slice(name)]
        row, token = partly[rows].nonzero(as_tuple=True)
        head = network.head(span)
        for part in chunks(len(row), head.size(span)):
            at = rows[row[part]], token[part]
            u = torch.zeros(len(at[0]), head.num_uniforms(span), dtype=torch.float64, device=y.device)
            tokens = Tokens(span, hidden[row[part], token[part]], view[at], token[part])
            digits = head.sample(network, tokens, Request(~known[at], u, temperature=0.0, strict=False)).digits
            possible = (digits >= 0).all(-1)
            codes[at[0][possible], at[1][possible]] = span.codec.decode(digits[possible])
    return codes


def record(result: Result, canvas: Canvas) -> list[dict[str, Any]]:
    """For each example its NFE and, for each span, final digits, rank, entropy and confidence as lists (L, S) for JSON;
    null where nothing was revealed. Entropy and confidence are rounded to six decimals. Raises ValueError without a
    trace."""
    trace = trace_of(result)
    parts = {"digits": result.y, "rank": result.rank, "entropy": trace.entropy, "confidence": trace.confidence}
    return [
        {
            "nfe": int(result.nfe[b]),
            "spans": {
                span.name: {
                    "grid": span.grid,
                    "radices": span.codec.radices,
                    **{key: _listed(canvas.view(value[b], span.name)) for key, value in parts.items()},
                }
                for span in canvas.spans
            },
        }
        for b in range(len(result.y))
    ]


def _listed(values: Tensor) -> list[list[float | int | None]]:
    return [[_number(value) for value in row] for row in values.tolist()]


def _number(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else round(value, 6)
