"""Fast-dLLM, factor: the largest set whose least sure member still satisfies a bound.

    the largest k with (k + 1) · (1 - p_(k)) < f, p sorted downwards, at least 1

Source: Wu et al., "Fast-dLLM", arXiv 2505.22618.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Memory, OfUnit, Reveal, View, chance


@dataclass(frozen=True)
class Factor(OfUnit):
    """the largest set whose least sure member still satisfies a bound; the number of steps follows

    factor: f > 0. Raises ValueError outside.
    """

    factor: float = 1.0
    name: ClassVar[str] = "factor"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.factor > 0:
            raise ValueError(f"factor must be > 0, got {self.factor}")

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return chance(probs, value)

    def select(self, view: View) -> Reveal:
        sure = view.feature[..., 0].masked_fill(~view.candidate, -1.0)
        ordered = sure.sort(-1, descending=True).values
        k = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device)
        fits = ((k + 1) * (1 - ordered) < self.factor) & (ordered >= 0)
        count = (fits * k).amax(-1)
        return Reveal(view.masked_of(view.best(sure, count.clamp(min=1)), self.unit))
