"""P2, path planning: at every step the least credible tokens are masked, unmasked before or not.

    x̂_i ~ p_i where masked, x̂_i = x_i where unmasked;      score_i = log p_i(x̂_i), times η where unmasked
    of the n free tokens the κ_k n of the highest score are unmasked next, all others masked,      κ_k = k / K

p_i of an unmasked token is what the head says of it as if it were masked; η < 1 makes it harder to take a token back, 0
never does. Source: Peng et al., "Path planning for masked diffusion", arXiv 2502.03540. Units are whole tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Memory, Reveal, Sampler, View, check_steps, log_chance


@dataclass(frozen=True)
class PathPlanning(Sampler):
    """path planning: whole tokens, the least credible masked again at every step

    eta: η >= 0. Raises ValueError on steps < 1 or eta < 0.
    """

    steps: int = 16
    eta: float = 1.0
    name: ClassVar[str] = "p2"
    remasks: ClassVar[bool] = True
    scores_unmasked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not self.eta >= 0:
            raise ValueError(f"eta must be >= 0, got {self.eta}")

    @property
    def unit_of(self) -> str:
        return "token"

    @property
    def last_step(self) -> int:
        return self.steps

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return log_chance(probs, value)

    def select(self, view: View) -> Reveal:
        if view.step >= self.steps:
            return Reveal(view.masked)
        score = view.feature[..., 0]
        score = torch.where(view.unmasked, self.eta * score, score)
        kept = view.best(score, (view.total * view.step) // self.steps, view.candidate | view.unmasked)
        return Reveal(view.masked_of(kept, "token"), view.visible_of(~kept))
