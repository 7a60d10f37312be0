"""A fixed number of steps, spent where the uncertainty is.

    H = Σ_i H_i · (units left / candidates), nats still to be drawn, deeper digits at the cost of the next one
    show the most certain units as long as   Σ_{i<=k} H_i <= H / (steps left),      k >= 1

Every step draws an equal share of what is uncertain, so sure positions go many at once and the steps are left to the
positions of the highest entropy. It is the entropy bound (arXiv 2505.24857) with γ set by the budget.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..policy import Choice, Look, Memory, Paced, entropy


class EntropyBudget(Paced):
    """steps: the most forward passes. Raises ValueError on steps < 1."""

    def __init__(self, steps: int = 16, unit: str = "digit") -> None:
        super().__init__(steps, unit=unit)

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return entropy(law)[:, None]

    def score(self, look: Look) -> Tensor:
        return -look.feature[..., 0]

    def choose(self, look: Look) -> Choice:
        if look.step >= self.steps:
            return Choice(look.candidate, look.left)
        candidates = look.candidate.sum(-1)
        nats = look.feature[..., 0].clamp(min=0).masked_fill(~look.candidate, torch.inf)
        ordered = nats.sort(-1).values
        still = ordered.masked_fill(ordered.isinf(), 0).sum(-1) * look.left / candidates.clamp(min=1)
        share = still / (self.steps - look.step + 1)
        fits = ordered.cumsum(-1) <= share[:, None] + 1e-12
        return Choice(look.best(self.score(look), fits.sum(-1).clamp(min=1)))
