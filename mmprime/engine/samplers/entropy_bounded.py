"""EB: as many of the most certain units as their joint uncertainty allows.

    units sorted by H_i;   the largest k >= 1 with   Σ_{i<=k} H_i - max_{i<=k} H_i <= γ

The left side bounds what the units know about one another, the error of drawing them apart. γ = 0 shows one unit at a
time (and all that are certain). Source: Ben-Hamu et al., "Entropy-bounded unmasking", arXiv 2505.24857.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..policy import Choice, Look, Memory, Policy, entropy


class EntropyBounded(Policy):
    """gamma: γ in nats. Raises ValueError on gamma < 0."""

    def __init__(self, gamma: float = 0.1, unit: str = "digit") -> None:
        super().__init__(unit)
        if not gamma >= 0:
            raise ValueError(f"gamma must be >= 0 nats, got {gamma}")
        self.gamma = gamma

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return entropy(law)[:, None]

    def choose(self, look: Look) -> Choice:
        nats = look.feature[..., 0].clamp(min=0).masked_fill(~look.candidate, torch.inf)
        ordered = nats.sort(-1).values
        fits = ordered.cumsum(-1) - ordered <= self.gamma + 1e-12  # sorted, so the maximum is the last one
        count = (fits & ordered.isfinite()).sum(-1).clamp(min=1)
        return Choice(look.best(-nats, count))
