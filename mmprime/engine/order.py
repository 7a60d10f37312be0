"""A random order of the sub-tokens of a batch, before it is cut into steps.

    key_n small: revealed early;   -inf given from the start;   +inf absent, never revealed

A *unit* is what is revealed as one: a sub-token, or a whole token where its digits share a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .rng import uniforms
from .schedule import Schedule


@dataclass(frozen=True)
class Order:
    """key (B, N) float64: small is early; -inf where given, +inf where absent. free (B, N): neither given nor absent.
    is_unit (B, N): one free sub-token for each unit."""

    key: Tensor
    free: Tensor
    is_unit: Tensor

    def in_time(self, schedule: Schedule) -> Order:
        """The same units in the order of their reveal times τ = α^{-1}(key) under a schedule, the largest first.

        The key of a free sub-token is -τ (1 - τ would make small times equal).
        """
        time = schedule.inverse(self.key.clamp(0, 1))
        return replace(self, key=torch.where(self.free, -time, self.key))

    def by(self, priority: Tensor) -> Order:
        """The same units by priority (B, N) first, small before large, at random among equals."""
        _, rank = torch.unique(priority, return_inverse=True)
        return replace(self, key=self.key + rank)  # keys lie in [0, 1), given and absent stay infinite


def class_priority(canvas: Canvas, by: str | Sequence[Tensor]) -> Tensor:
    """(N,) float64: "digit" (the coarse digits of all tokens first), "raster" (one sub-token after the other), or the
    index of the first region mask (N,) that holds it, last where none does. Raises ValueError on another word."""
    if isinstance(by, str):
        if by not in ("digit", "raster"):
            raise ValueError(f"unknown order {by!r}; there are 'digit', 'raster', or a list of region masks")
        return (canvas.digit_of if by == "digit" else torch.arange(canvas.num_subtokens)).double()
    priority = torch.full((canvas.num_subtokens,), float(len(by)), dtype=torch.float64)
    for index in reversed(range(len(by))):
        priority[canvas.full_mask(by[index], 1)[0]] = index
    return priority


def halton_priority(canvas: Canvas, streams: Sequence[torch.Generator]) -> Tensor:
    """(B, N): tokens of each span along a low-discrepancy sequence, rolled at random per example, coarse digits first.

    Source: Besnier et al., "Halton Scheduler for Masked Generative Image Transformer", arXiv 2503.17076.
    """
    roll = uniforms(streams, len(canvas.spans))
    columns = []
    for index, span in enumerate(canvas.spans):
        rank = torch.empty(span.num_tokens, dtype=torch.float64)
        rank[halton_order(span)] = torch.arange(span.num_tokens, dtype=torch.float64)
        shift = (roll[:, index : index + 1] * span.num_tokens).long()
        rolled = (rank + shift) % span.num_tokens  # (B, L)
        digit = torch.arange(span.codec.num_digits) / span.codec.num_digits
        columns.append(((rolled[..., None] + digit) / span.num_tokens).flatten(1))
    return torch.cat(columns, 1)


def halton_order(span: Span) -> Tensor:
    """A permutation (L,) of the span's tokens: Halton points (bases 2, 3) on the grid, base 2 on a line."""
    height, width = span.grid or (1, span.num_tokens)
    seen: dict[int, None] = {}
    index = 0
    while len(seen) < span.num_tokens:
        column = int(_radical_inverse(index, 2) * width)
        row = int(_radical_inverse(index, 3) * height)
        seen.setdefault(row * width + column)
        index += 1
    return torch.tensor(list(seen))


def _radical_inverse(index: int, base: int) -> float:
    value, scale = 0.0, 1.0 / base
    while index:
        value += scale * (index % base)
        index, scale = index // base, scale / base
    return value
