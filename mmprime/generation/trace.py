"""What a traced run tells about itself: when each digit became known, and how sure the model was of it.

A *draw* is one token at one step: the digits it shows there come from one law over whole codes, given what is visible,
so they share its entropy (nats) and the probability of the code drawn (confidence). Of a digit that was hidden again
only the last draw is recorded. Guidance, temperature and top-p are part of the law; at temperature 0 nothing is left of
it, and every entropy is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from mmprime.engine import MASK_ID, Canvas, Denoiser
from mmprime.engine.denoiser import chunks, token_grid
from mmprime.engine.heads.softmax import constrain

from .sampling import Result


@dataclass(frozen=True)
class Course:
    """A quantity along the steps 1..K: mean (K,) over the examples that drew something, NaN without any; error (K,) one
    standard error of it over the examples, NaN with fewer than two."""

    mean: Tensor
    error: Tensor


def frames(found: Result) -> Tensor:
    """(K + 1, B, N): the start, with only what was given, and y after each step. Raises ValueError without a trace."""
    if found.history is None:
        raise ValueError("the draw was not traced; draw with trace=True")
    return torch.cat([found.y.masked_fill(found.rank != 0, MASK_ID)[None], found.history])


def reveal_maps(rank: Tensor, canvas: Canvas, name: str = "image") -> Tensor:
    """rank (B, N) -> (B, 1 + S, h, w) float64: the mean rank of the digits of each token, then the rank of each digit.

    NaN where a digit was never drawn. Raises ValueError on a span without a grid.
    """
    span = canvas.span(name)
    if span.grid is None:
        raise ValueError(f"span {name!r} has no grid to draw a map on")
    own = canvas.view(rank, name).double()
    own = own.masked_fill(own < 0, torch.nan)
    maps = torch.cat([own.mean(-1, keepdim=True), own], -1)
    return rearrange(maps, "b (h w) s -> b s h w", h=span.grid[0])


def course(values: Tensor, rank: Tensor, canvas: Canvas, steps: int) -> Course:
    """Values (B, N) of the digits, such as their entropy, along the steps: the mean over the draws of an example, then
    over examples. A token that shows several digits at once counts once."""
    drawn = rank > 0
    draw = canvas.token_of.to(rank.device) * (steps + 1) + rank.clamp(min=0)  # digits of a draw share this number
    size = torch.zeros(len(rank), canvas.num_tokens * (steps + 1), dtype=torch.float64, device=rank.device)
    size.scatter_add_(1, draw, drawn.double())
    weight = drawn / size.gather(1, draw).clamp(min=1)
    total, count = torch.zeros(2, len(rank), steps + 1, dtype=torch.float64, device=rank.device)
    total.scatter_add_(1, rank.clamp(min=0), weight * torch.where(drawn, values.double(), 0.0))
    count.scatter_add_(1, rank.clamp(min=0), weight)
    own = (total / count)[:, 1:]  # (B, K), NaN where an example drew nothing
    examples = (~own.isnan()).sum(0)
    mean = own.nanmean(0)
    spread = (own - mean).square().nansum(0) / (examples - 1)
    return Course(mean, torch.where(examples > 1, (spread / examples).sqrt(), torch.nan))


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
        hidden = model(y[rows], canvas)[:, canvas.token_slice(name)]
        row, token = partly[rows].nonzero(as_tuple=True)
        for part in chunks(len(row), span):
            at = rows[row[part]], token[part]
            grid = constrain(token_grid(model, hidden[row[part], token[part]], span, token[part]), view[at])
            best = grid.flatten(1).max(-1)
            codes[at] = torch.where(best.values.isneginf(), -1, span.codec.code_at.to(y.device)[best.indices])
    return codes


def record(found: Result, canvas: Canvas) -> list[dict[str, Any]]:
    """For each example its NFE and, for each span, final digits, rank, entropy and confidence as lists (L, S) for JSON;
    null where nothing was drawn. Entropy and confidence are rounded to six decimals."""
    if found.entropy is None or found.confidence is None:
        raise ValueError("the draw was not traced; draw with trace=True")
    parts = {"digits": found.y, "rank": found.rank, "entropy": found.entropy, "confidence": found.confidence}
    return [
        {
            "nfe": int(found.nfe[b]),
            "spans": {
                span.name: {
                    "grid": span.grid,
                    "radices": span.codec.radices,
                    **{key: _listed(canvas.view(value[b], span.name)) for key, value in parts.items()},
                }
                for span in canvas.spans
            },
        }
        for b in range(len(found.y))
    ]


def _listed(values: Tensor) -> list[list[float | int | None]]:
    return [[_number(value) for value in row] for row in values.tolist()]


def _number(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else round(value, 6)
