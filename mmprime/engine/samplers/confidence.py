"""MaskGIT: the surest draws first, with noise that fades.

    score_i = log p_i(v_i) + r · (1 - progress) · Gumbel,        the k best are revealed, k by the pace

Source: Chang et al., arXiv 2202.04200. It selects by what was drawn, so even one unit at a time it is not exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..schedule import Schedule
from .base import Memory, Paced, View, log_chance


@dataclass(frozen=True)
class Confidence(Paced):
    """MaskGIT: the surest draws first, with fading noise

    noise: r, the weight of the Gumbel noise at the start. Raises ValueError on noise < 0.
    """

    noise: float = 4.5
    pace: Schedule = field(default_factory=Schedule.cosine)
    name: ClassVar[str] = "confidence"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise >= 0:
            raise ValueError(f"noise must be >= 0, got {self.noise}")

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return log_chance(probs, value)

    def score(self, view: View) -> Tensor:
        return view.feature[..., 0] + self.noise * (1 - self.progress(view)) * view.gumbel()
