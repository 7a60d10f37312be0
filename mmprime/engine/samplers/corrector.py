"""The corrector: more digits are revealed than the schedule asks for, and as many visible ones are masked again.

    rates at visibility α:   masked -> visible  (1 + β) α' / (1 - α),      visible -> masked  β α' / α
    a step α_t -> α_s:       σ = min(β (α_s - α_t), 1 - α_s) / α_t       a visible digit is masked with chance σ <= 1
                             r = (α_s - (1 - σ) α_t) / (1 - α_t)         a masked one is revealed with chance r
    strength                 β(τ) = strength · (τ (1 - τ))^power  for  start <= τ < stop,  else 0

τ is the share of the run that is over, 0 at the start (1 - t of the schedule). The two β-flows cancel, so a digit is
visible with chance α_k after step k, whatever β; while σ is below its limit, r = (1 + β)(α_s - α_t) / (1 - α_t). Every
digit moves on its own, not only whole tokens, so a token goes back to a partial state and its other digits constrain
what is drawn anew. β = 0 is ancestral sampling with independent digits. It does not look at what the model says, so a
step that reveals nothing costs no forward pass.

Source: Chao et al. (MDM-Prime), arXiv 2505.18495, with β as in Gat et al., "Discrete flow matching", arXiv 2407.15595,
after Campbell et al., arXiv 2205.14987. They take Euler steps of the rates (the corrector after the predictor); here
both are one step that keeps α exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..schedule import Schedule
from .base import Reveal, Sampler, View, check_steps


@dataclass(frozen=True)
class Corrector(Sampler):
    """single digits, some of them masked again on the way at the rate that keeps the share of visible ones

    steps: K; the rest as above. Raises ValueError on steps < 1, strength or power < 0, or an empty window.
    """

    steps: int = 16
    strength: float = 1.0
    power: float = 0.5
    start: float = 0.0
    stop: float = 1.0
    schedule: Schedule = field(default_factory=Schedule.linear)
    name: ClassVar[str] = "corrector"
    looks: ClassVar[bool] = False
    features: ClassVar[int] = 0
    noise_per: ClassVar[str] = "digit"
    remasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not self.strength >= 0 or not self.power >= 0:
            raise ValueError(
                f"strength and power must be >= 0, got {self.strength} and {self.power}; strength 0 corrects nothing"
            )
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(f"a window of correction needs 0 <= start < stop <= 1, got {self.start} and {self.stop}")

    @property
    def last_step(self) -> int:
        return self.steps

    def alpha(self, step: int) -> float:
        """α after `step` steps."""
        return float(self.schedule.alpha(torch.tensor(1 - step / self.steps, dtype=torch.float64)))

    def beta(self, step: int) -> float:
        """β at the beginning of a step."""
        tau = (step - 1) / self.steps
        return self.strength * (tau * (1 - tau)) ** self.power if self.start <= tau < self.stop else 0.0

    def chances(self, step: int) -> tuple[float, float]:
        """(r, σ) of a step."""
        before, after = self.alpha(step - 1), self.alpha(step)
        sigma = min(self.beta(step) * (after - before), 1 - after) / before if before > 0 else 0.0
        sigma = min(sigma, 1.0)
        return (after - (1 - sigma) * before) / (1 - before), sigma

    def select(self, view: View) -> Reveal:
        reveal, remask = self.chances(view.step)
        last = view.step >= self.steps
        return Reveal(view.masked & ((view.noise < reveal) | last), view.visible & (view.noise < remask))
