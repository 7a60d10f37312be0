"""A fixed number of steps, spent where the uncertainty is.

    H = Σ_i H_i · (units left / candidates), nats still to be drawn, deeper digits at the cost of the next one
    reveal the most certain units as long as   Σ_{i<=k} H_i <= H / (steps left),      k >= 1

Every step draws an equal share of what is uncertain, so sure positions go many at once and the steps are left to the
positions of the highest entropy. It is the entropy bound (arXiv 2505.24857) with γ set by the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Memory, OfUnit, Reveal, View, check_steps, entropy_nats


@dataclass(frozen=True)
class EntropyBudget(OfUnit):
    """equal nats at every step, so that the steps go where the uncertainty is

    steps: the most forward passes. Raises ValueError on steps < 1.
    """

    steps: int = 16
    name: ClassVar[str] = "entropy_budget"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return entropy_nats(probs)

    def select(self, view: View) -> Reveal:
        if view.step >= self.steps:
            return Reveal(view.masked)
        candidates = view.candidate.sum(-1)
        nats = view.feature[..., 0].clamp(min=0).masked_fill(~view.candidate, torch.inf)
        ordered = nats.sort(-1).values
        still = ordered.masked_fill(ordered.isinf(), 0).sum(-1) * view.left / candidates.clamp(min=1)
        share = still / (self.steps - view.step + 1)
        fits = ordered.cumsum(-1) <= share[:, None] + 1e-12
        return Reveal(view.masked_of(view.best(-view.feature[..., 0], fits.sum(-1).clamp(min=1)), self.unit))
