"""The moment sampler: choose where by the moment of the distribution, then draw from the sharpened distribution.

    score_i = log Σ_v p_i(v)^β + Gumbel,        v_i ~ p_i^β / Σ p_i^β

Source: arXiv 2510.04525. Position and value are chosen apart, so temperature and order do not mix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Memory, Paced, View


@dataclass(frozen=True)
class Moment(Paced):
    """positions by the moment of their distribution, values from the sharpened one

    power: β > 1 sharpens. Raises ValueError on power <= 0.
    """

    power: float = 1.25
    name: ClassVar[str] = "moment"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.power > 0:
            raise ValueError(f"power must be > 0, got {self.power}")

    @property
    def sharpness(self) -> float:
        return self.power

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return (self.power * probs.log()).logsumexp(-1).sum(-1, keepdim=True)

    def score(self, view: View) -> Tensor:
        return view.feature[..., 0] + view.gumbel()
