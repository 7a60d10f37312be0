"""The corrector: more digits are shown than the schedule asks for, and as many visible ones are hidden again.

    rates at visibility α:   hidden -> shown  (1 + β) α' / (1 - α),      visible -> hidden  β α' / α
    a step α_t -> α_s:       σ = min(β (α_s - α_t), 1 - α_s) / α_t       a visible digit is hidden with chance σ <= 1
                             r = (α_s - (1 - σ) α_t) / (1 - α_t)         a hidden one is shown with chance r
    strength                 β(τ) = strength · (τ (1 - τ))^power  for  start <= τ < stop,  else 0

τ is the share of the run that is over, 0 at the start (1 - t of the schedule). The two β-flows cancel, so a digit is
visible with chance α_k after step k, whatever β; while σ is below its limit, r = (1 + β)(α_s - α_t) / (1 - α_t). Every
digit moves on its own, not only whole tokens, so a token goes back to a partial state and its other digits constrain
what is drawn anew. β = 0 is ancestral sampling with independent digits. It does not look at what the model says, so a
step that shows nothing costs no forward pass.

Source: Chao et al. (MDM-Prime), arXiv 2505.18495, with β as in Gat et al., "Discrete flow matching", arXiv 2407.15595,
after Campbell et al., arXiv 2205.14987. They take Euler steps of the rates (the corrector after the predictor); here
both are one step that keeps α exactly.
"""

from __future__ import annotations

import torch

from ..policy import Digits, Look, Policy
from ..schedule import Schedule


class Corrector(Policy):
    """steps: K; the rest as above. Raises ValueError on steps < 1, strength or power < 0, or an empty window."""

    remasks = True
    blind = True
    digit_noise = True

    def __init__(
        self,
        steps: int = 16,
        strength: float = 1.0,
        power: float = 0.5,
        start: float = 0.0,
        stop: float = 1.0,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__("digit")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not strength >= 0 or not power >= 0:
            raise ValueError(
                f"strength and power must be >= 0, got {strength} and {power}; strength 0 corrects nothing"
            )
        if not 0 <= start < stop <= 1:
            raise ValueError(f"a window of correction needs 0 <= start < stop <= 1, got {start} and {stop}")
        self.last_step, self.strength, self.power = steps, strength, power
        self.begin, self.end, self.schedule = start, stop, schedule or Schedule.linear()

    def visible(self, step: int) -> float:
        """α after `step` steps."""
        return float(self.schedule.alpha(torch.tensor(1 - step / self.last_step, dtype=torch.float64)))

    def beta(self, step: int) -> float:
        """β at the beginning of a step."""
        tau = (step - 1) / self.last_step
        return self.strength * (tau * (1 - tau)) ** self.power if self.begin <= tau < self.end else 0.0

    def chances(self, step: int) -> tuple[float, float]:
        """(r, σ) of a step."""
        before, after = self.visible(step - 1), self.visible(step)
        sigma = min(self.beta(step) * (after - before), 1 - after) / before if before > 0 else 0.0
        sigma = min(sigma, 1.0)
        return (after - (1 - sigma) * before) / (1 - before), sigma

    def choose(self, look: Look) -> Digits:
        reveal, hide = self.chances(look.step)
        last = look.step >= self.last_step
        return Digits(look.hidden & ((look.noise < reveal) | last), look.visible & (look.noise < hide))
