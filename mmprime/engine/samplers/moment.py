"""The moment sampler: choose where by the moment of the law, then draw from the sharpened law.

    score_i = log Σ_v p_i(v)^β + Gumbel,        v_i ~ p_i^β / Σ p_i^β

Source: arXiv 2510.04525. Place and value are chosen apart, so temperature and order do not mix.
"""

from __future__ import annotations

from torch import Tensor

from ..policy import Look, Memory, Paced
from ..schedule import Schedule


class Moment(Paced):
    """power: β > 1 sharpens. Raises ValueError on power <= 0."""

    def __init__(self, steps: int = 16, power: float = 1.25, pace: Schedule | None = None, unit: str = "digit") -> None:
        super().__init__(steps, pace, unit)
        if not power > 0:
            raise ValueError(f"power must be > 0, got {power}")
        self.power = power

    @property
    def sharpness(self) -> float:
        return self.power

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return (self.power * law.log()).logsumexp(-1, keepdim=True)

    def score(self, look: Look) -> Tensor:
        return look.feature[..., 0] + look.gumbel()
