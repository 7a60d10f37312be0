"""ReMDM: what is unmasked may be masked again, so that early mistakes can be mended.

    α_t = 1 - t on a grid of K steps, t -> s:      σ_max = min(1, (1 - α_s) / α_t)
    an unmasked part is masked with chance σ;   a masked one is revealed with chance (α_s - (1 - σ) α_t) / (1 - α_t)

    cap      σ = min(η, σ_max)
    rescale  σ = η · σ_max
    conf     σ_i = σ_max · softmax over unmasked parts of (- confidence when drawn); masked ones take the mean σ
    loop     rescale, with α held at 1 - t_on for the middle half of the steps

Source: Wang et al., "Remasking discrete diffusion models", arXiv 2503.00307. Parts are
tokens, as there, or single digits (`unit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Memory, Reveal, Revising, Start, View, chance

KINDS = ("cap", "rescale", "conf", "loop")


@dataclass(frozen=True)
class ReMDM(Revising):
    """tokens or digits, some of them masked again on the way

    kind: cap, rescale, conf or loop; eta: η in [0, 1]; hold: t_on of the loop, in (0, 1). Raises ValueError outside.
    """

    kind: str = "cap"
    eta: float = 0.1
    hold: float = 0.1
    name: ClassVar[str] = "remdm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of remasking {self.kind!r}; there are {', '.join(KINDS)}")
        if not 0 <= self.eta <= 1 or not 0 < self.hold < 1:
            raise ValueError(f"need eta in [0, 1] and hold in (0, 1); got {self.eta} and {self.hold}")

    def begin(self, start: Start) -> Memory:
        parts = start.canvas.num_subtokens if self.each_digit else start.canvas.num_tokens
        return {"confidence": torch.zeros(start.batch, parts, dtype=torch.float64)}  # when drawn

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return chance(probs, value)

    def alpha(self, step: int) -> float:
        """α after `step` steps."""
        share = step / self.steps
        if self.kind != "loop":
            return share
        edge = 1 - self.hold  # a quarter of the steps up to it, half of them at it, a quarter for the rest
        if share < 0.25:
            return edge * share / 0.25
        return edge if share < 0.75 else edge + (1 - edge) * (share - 0.75) / 0.25

    def select(self, view: View) -> Reveal:
        before, after = self.alpha(view.step - 1), self.alpha(view.step)
        masked, unmasked = view.parts(self.unit)
        sigma = self._sigma(view, unmasked, before, after)
        last = view.step >= self.steps
        again = sigma if self.kind != "conf" else _mean(sigma, unmasked)
        chance = (after - (1 - again) * before) / (1 - before)
        reveal = masked & ((view.noise < chance) | last)
        remask = unmasked & (view.noise < sigma)
        confidence = view.memory["confidence"]
        confidence[view.example] = torch.where(reveal, view.feature[..., 0], confidence[view.example])
        return view.revised(reveal, remask, self.unit)

    def _sigma(self, view: View, unmasked: Tensor, before: float, after: float) -> Tensor:
        """(A, L) or (A, N) chances of being masked."""
        limit = min(1.0, (1 - after) / before) if before > 0 else 0.0
        if self.kind == "conf":
            score = (-view.memory["confidence"][view.example]).masked_fill(~unmasked, -torch.inf)
            return limit * torch.nan_to_num(score.softmax(-1))
        sigma = min(self.eta, limit) if self.kind == "cap" else self.eta * limit
        return torch.full_like(view.noise, sigma)


def _mean(sigma: Tensor, unmasked: Tensor) -> Tensor:
    """(A, 1): the mean over unmasked parts, 0 without any."""
    return (sigma * unmasked).sum(-1, keepdim=True) / unmasked.sum(-1, keepdim=True).clamp(min=1)
