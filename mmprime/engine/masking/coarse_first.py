"""Coarse-first masking: the coarse digits of all tokens are revealed before any finer one.

    key_n = (d + u_n) / S   for level d of at most S digits a token

A digit of level d is visible at time t with chance clip(S·α(t) - d, 0, 1), so a masked one is revealed at rate
-α'(t) / ((d+1)/S - α(t)) while d = floor(S·α(t)), and at rate 0 before and after. By count: of the m masked units the a
of the coarsest level that has any are equally likely to come next, so each weighs n/a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Canvas
from .base import Reveals
from .independent import IndependentMasking


@dataclass(frozen=True)
class CoarseFirstMasking(IndependentMasking):
    """The coarse digits of all tokens before any finer one, in random order within a level."""

    name: ClassVar[str] = "coarse_first"
    seed: ClassVar[int] = 3
    sampler: ClassVar[str] = "coarse_first"
    one_schedule: ClassVar[bool] = True
    any_subset: ClassVar[bool] = False

    def _keys(self, canvas: Canvas, u: Tensor, free: Tensor) -> Tensor:
        return (canvas.digit_of.to(u.device) + u) / canvas.num_levels

    @property
    def _powers(self) -> None:
        return None

    def visible(self, canvas: Canvas, time: Tensor) -> Tensor:
        alpha = super().visible(canvas, time)
        return (canvas.num_levels * alpha - canvas.digit_of.to(time.device)).clamp(0, 1)

    def rate_by_count(self, canvas: Canvas, masked: Tensor, weight: Tensor) -> Tensor:
        digit = canvas.digit_of.to(masked.device)
        coarsest = torch.where(masked, digit, canvas.num_levels).amin(-1, keepdim=True)
        chance = (masked & (digit == coarsest)).to(weight.dtype)
        total = chance.sum(-1, keepdim=True)
        return weight * masked.sum(-1, keepdim=True) * chance / torch.where(total > 0, total, 1.0)

    def rate_by_time(self, canvas: Canvas, time: Tensor) -> Tensor:
        levels, digit = canvas.num_levels, canvas.digit_of.to(time.device)
        alpha, derivative = self.grid.at(time)
        left = (digit + 1) / levels - alpha
        active = (digit == (levels * alpha).floor()) & (left > 0)
        return torch.where(active, -derivative / torch.where(active, left, 1.0), 0.0)

    def next_reveals(self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, rate: Tensor) -> Reveals:
        """Each masked digit whose rate is above 0, at most one of a token."""
        rate = torch.where(masked, rate, 0.0)
        of_token = torch.zeros(len(y0), canvas.num_tokens, dtype=rate.dtype, device=rate.device)
        of_token.index_add_(1, canvas.token_of.to(rate.device), rate)
        return Reveals(torch.where(rate > 0, y0, y_t)[None], of_token[None])

    def settled(self, canvas: Canvas, rank: list[int], free: Tensor, in_time: bool) -> list[int]:
        """An order inside each level, one level after the other; the ranks of a time grid follow from `visible`."""
        if not in_time:
            digits = free.nonzero()[:, 0].tolist()
            for position, n in enumerate(sorted(digits, key=lambda n: (int(canvas.digit_of[n]), rank[n]))):
                rank[n] = position + 1
        return rank
