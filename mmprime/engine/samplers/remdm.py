"""ReMDM: shown tokens may be hidden again, so that early mistakes can be mended.

    α_t = 1 - t on a grid of K steps, t -> s:      σ_max = min(1, (1 - α_s) / α_t)
    a shown token is hidden with chance σ;   a hidden one is shown with chance (α_s - (1 - σ) α_t) / (1 - α_t)

    cap      σ = min(η, σ_max)
    rescale  σ = η · σ_max
    conf     σ_i = σ_max · softmax over shown tokens of (- confidence when drawn); hidden ones take the mean σ
    loop     rescale, with α held at 1 - t_on for the middle half of the steps

Source: Wang et al., "Remasking discrete diffusion models", arXiv 2503.00307. Units are whole tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..canvas import Canvas
from ..policy import Choice, Look, Memory, Policy

KINDS = ("cap", "rescale", "conf", "loop")


class ReMDM(Policy):
    """kind: see above; eta: η in [0, 1]; hold: t_on of the loop, in (0, 1). Raises ValueError on values outside."""

    remasks = True

    def __init__(self, steps: int = 16, kind: str = "cap", eta: float = 0.1, hold: float = 0.1) -> None:
        super().__init__("token")
        if kind not in KINDS:
            raise ValueError(f"unknown kind of remasking {kind!r}; there are {', '.join(KINDS)}")
        if steps < 1 or not 0 <= eta <= 1 or not 0 < hold < 1:
            raise ValueError(f"need steps >= 1, eta in [0, 1], hold in (0, 1); got {steps}, {eta}, {hold}")
        self.last_step, self.kind, self.eta, self.hold = steps, kind, eta, hold

    def remember(self, batch: int, canvas: Canvas) -> Memory:
        return {"confidence": torch.zeros(batch, canvas.num_tokens, dtype=torch.float64)}  # when drawn

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return law.gather(-1, value[:, None])

    def visible(self, step: int) -> float:
        """α after `step` steps."""
        share = step / self.last_step
        if self.kind != "loop":
            return share
        edge = 1 - self.hold  # a quarter of the steps up to it, half of them at it, a quarter for the rest
        if share < 0.25:
            return edge * share / 0.25
        return edge if share < 0.75 else edge + (1 - edge) * (share - 0.75) / 0.25

    def choose(self, look: Look) -> Choice:
        before, after = self.visible(look.step - 1), self.visible(look.step)
        sigma = self._sigma(look, before, after)
        last = look.step >= self.last_step
        again = sigma if self.kind != "conf" else _mean(sigma, look.shown)
        chance = (after - (1 - again) * before) / (1 - before)
        reveal = look.candidate & ((look.noise < chance) | last)
        hide = look.shown & (look.noise < sigma)
        confidence = look.memory["confidence"]
        confidence[look.example] = torch.where(reveal, look.feature[..., 0], confidence[look.example])
        return Choice(reveal, hide=hide)

    def _sigma(self, look: Look, before: float, after: float) -> Tensor:
        """(B, L) chances of being hidden."""
        limit = min(1.0, (1 - after) / before) if before > 0 else 0.0
        if self.kind == "conf":
            score = (-look.memory["confidence"][look.example]).masked_fill(~look.shown, -torch.inf)
            return limit * torch.nan_to_num(score.softmax(-1))
        sigma = min(self.eta, limit) if self.kind == "cap" else self.eta * limit
        return torch.full(look.noise.shape, sigma, dtype=torch.float64)


def _mean(sigma: Tensor, shown: Tensor) -> Tensor:
    """(B, 1): the mean over shown tokens, 0 without any."""
    return (sigma * shown).sum(-1, keepdim=True) / shown.sum(-1, keepdim=True).clamp(min=1)
