"""P2, path planning: at every step the least credible tokens are hidden, shown or not.

    x̂_i ~ p_i where hidden, x̂_i = x_i where shown;      score_i = log p_i(x̂_i), times η where shown
    of the n free tokens the κ_k n of the highest score are shown next, all others hidden,      κ_k = k / K

p_i of a shown token is what the head says of it as if it were hidden; η < 1 makes it harder to take a token back, 0
never does. Source: Peng et al., "Path planning for masked diffusion", arXiv 2502.03540. Units are whole tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..policy import Choice, Look, Memory, Policy


class PathPlanning(Policy):
    """eta: η >= 0. Raises ValueError on steps < 1 or eta < 0."""

    remasks = True
    judges_shown = True

    def __init__(self, steps: int = 16, eta: float = 1.0) -> None:
        super().__init__("token")
        if steps < 1 or not eta >= 0:
            raise ValueError(f"need steps >= 1 and eta >= 0, got {steps} and {eta}")
        self.last_step, self.eta = steps, eta

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return law.gather(-1, value[:, None]).clamp(min=1e-300).log()

    def choose(self, look: Look) -> Choice:
        score = look.feature[..., 0]
        score = torch.where(look.shown, self.eta * score, score)
        free = look.candidate | look.shown
        count = (look.total * look.step) // self.last_step
        if look.step >= self.last_step:
            return Choice(look.candidate)
        kept = look.best(score, count, free)
        return Choice(look.candidate & kept, hide=look.shown & ~kept)
