"""MaskGIT: the surest draws first, with noise that fades.

    score_i = log p_i(v_i) + r · (1 - progress) · Gumbel,        the k best are shown, k by the pace

Source: Chang et al., arXiv 2202.04200. It chooses by what was drawn, so even one unit at a time it is not exact.
"""

from __future__ import annotations

from torch import Tensor

from ..policy import Look, Memory, Paced
from ..schedule import Schedule


class Confidence(Paced):
    """noise: r, the weight of the Gumbel noise at the start. Raises ValueError on noise < 0."""

    def __init__(self, steps: int = 16, noise: float = 4.5, pace: Schedule | None = None, unit: str = "digit") -> None:
        super().__init__(steps, pace or Schedule.cosine(), unit)
        if noise < 0:
            raise ValueError(f"noise must be >= 0, got {noise}")
        self.noise = noise

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return law.gather(-1, value[:, None]).clamp(min=1e-300).log()

    def score(self, look: Look) -> Tensor:
        return look.feature[..., 0] + self.noise * (1 - self.progress(look)) * look.gumbel()
