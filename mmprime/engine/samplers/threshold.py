"""Fast-dLLM, threshold: everything that is sure enough, at once.

    all units with p_i(v_i) > τ, at least the best one

Source: Wu et al., "Fast-dLLM", arXiv 2505.22618.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Memory, OfUnit, Reveal, View, chance


@dataclass(frozen=True)
class Threshold(OfUnit):
    """all that is surer than a threshold; the number of steps follows

    threshold: τ in [0, 1]. Raises ValueError outside.
    """

    threshold: float = 0.9
    name: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}")

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return chance(probs, value)

    def select(self, view: View) -> Reveal:
        sure = view.feature[..., 0].masked_fill(~view.candidate, -1.0)
        count = (view.candidate & (sure > self.threshold)).sum(-1)
        return Reveal(view.masked_of(view.best(sure, count.clamp(min=1)), self.unit))
