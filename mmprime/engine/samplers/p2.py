"""P2, path planning: at every step the least credible parts are masked, unmasked before or not.

    x̂_i ~ p_i where masked, x̂_i = x_i where unmasked;      score_i = log p_i(x̂_i), times η where unmasked
    of the n free parts the κ_k n of the highest score are unmasked next, all others masked,      κ_k = k / K

Parts are tokens or single digits (`unit`). p_i of an unmasked one is what the head says of it as if it were masked, the
rest of its token as it is; the trunk has seen its value. η < 1 makes it harder to take a part back, 0 never does.

Source: Peng et al., "Path planning for masked diffusion", arXiv 2502.03540.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Memory, Reveal, Revising, View, log_chance


@dataclass(frozen=True)
class PathPlanning(Revising):
    """path planning: the least credible tokens or digits are masked again at every step

    eta: η >= 0. Raises ValueError below 0.
    """

    eta: float = 1.0
    name: ClassVar[str] = "p2"
    scores_unmasked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta >= 0:
            raise ValueError(f"eta must be >= 0, got {self.eta}")

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return log_chance(probs, value)

    def select(self, view: View) -> Reveal:
        if view.step >= self.steps:
            return Reveal(view.masked)
        masked, unmasked = view.parts(self.unit)
        score = view.feature[..., 0]
        score = torch.where(unmasked, self.eta * score, score)
        kept = view.best(score, (view.total * view.step) // self.steps, masked | unmasked)
        return view.revised(masked & kept, unmasked & ~kept, self.unit)
