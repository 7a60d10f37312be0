"""Fast-dLLM: everything that is sure enough, at once.

    threshold:  all units with p_i(v_i) > τ, at least the best one
    factor:     the largest k with (k + 1) · (1 - p_(k)) < f, p sorted downwards, at least 1

Source: Wu et al., "Fast-dLLM", arXiv 2505.22618.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..policy import Choice, Look, Memory, Policy


class Threshold(Policy):
    """threshold: τ in [0, 1]; factor: f > 0 takes the second rule instead. Raises ValueError on values outside."""

    def __init__(self, threshold: float = 0.9, factor: float | None = None, unit: str = "digit") -> None:
        super().__init__(unit)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        if factor is not None and not factor > 0:
            raise ValueError(f"factor must be > 0, got {factor}")
        self.threshold, self.factor = threshold, factor

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return law.gather(-1, value[:, None])

    def choose(self, look: Look) -> Choice:
        sure = look.feature[..., 0].masked_fill(~look.candidate, -1.0)
        if self.factor is None:
            count = (look.candidate & (sure > self.threshold)).sum(-1)
        else:
            ordered = sure.sort(-1, descending=True).values
            k = torch.arange(1, ordered.shape[-1] + 1)
            fits = ((k + 1) * (1 - ordered) < self.factor) & (ordered >= 0)
            count = (fits * k).amax(-1)
        return Choice(look.best(sure, count.clamp(min=1)))
