"""Token masking: the digits of a token share one time, so a token is masked as a whole (plain MDM).

    key_n = u of the token's first digit;   next and in one step: all masked digits of a token at once

Sources: Sahoo et al. (MDLM), arXiv 2406.07524; Shi et al. (MD4), arXiv 2406.04329.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Canvas
from .base import Masking, Reveals


@dataclass(frozen=True)
class TokenMasking(Masking):
    """A token is masked as a whole, or not at all."""

    name: ClassVar[str] = "token_synchronous"
    seed: ClassVar[int] = 2
    whole_tokens: ClassVar[bool] = True

    def _keys(self, canvas: Canvas, u: Tensor, free: Tensor) -> Tensor:
        return u[:, canvas.token_start.to(u.device)]

    def _units(self, canvas: Canvas, free: Tensor) -> Tensor:
        return canvas.first_in_token(free)

    def next_reveals(self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, rate: Tensor) -> Reveals:
        return Reveals(torch.where(masked, y0, y_t)[None], canvas.at_level(rate, 0)[None])

    def step_reveals(
        self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, chance: Tensor, apart: bool = False
    ) -> Reveals:
        masked = masked & (chance > 0)
        return Reveals(torch.where(masked, y0, y_t)[None], canvas.at_level(chance, 0)[None])

    def unit_positions(self, canvas: Canvas, free: Tensor) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for n in free.nonzero()[:, 0].tolist():
            groups.setdefault(int(canvas.token_of[n]), []).append(n)
        return list(groups.values())
