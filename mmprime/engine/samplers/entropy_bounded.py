"""EB: as many of the most certain units as their joint uncertainty allows.

    units sorted by H_i;   the largest k >= 1 with   Σ_{i<=k} H_i - max_{i<=k} H_i <= γ

The left side bounds what the units know about one another, the error of sampling them apart. γ = 0 reveals one unit at
a time (and all that are certain). Source: Ben-Hamu et al., "Entropy-bounded unmasking", arXiv 2505.24857.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Memory, OfUnit, Reveal, View, entropy_nats


@dataclass(frozen=True)
class EntropyBounded(OfUnit):
    """as many as their joint entropy allows; the number of steps follows

    gamma: γ in nats. Raises ValueError on gamma < 0.
    """

    gamma: float = 0.1
    name: ClassVar[str] = "entropy_bounded"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise ValueError(f"gamma must be >= 0 nats, got {self.gamma}")

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return entropy_nats(probs)

    def select(self, view: View) -> Reveal:
        nats = view.feature[..., 0].clamp(min=0).masked_fill(~view.candidate, torch.inf)
        ordered = nats.sort(-1).values
        fits = ordered.cumsum(-1) - ordered <= self.gamma + 1e-12  # sorted, so the maximum is the last one
        count = (fits & ordered.isfinite()).sum(-1).clamp(min=1)
        return Reveal(view.masked_of(view.best(-nats, count), self.unit))
