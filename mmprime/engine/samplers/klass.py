"""KLASS: what is sure and has stopped changing.

    reveal i  if  p_i(v_i) > τ  and  KL(p_i now ‖ p_i before) < ε  over the last n steps;   if none, the k surest

Distributions are taken before temperature. Source: Kim et al., "KL-adaptive stability sampling", arXiv 2511.05664.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Memory, OfUnit, Reveal, Start, View, chance


@dataclass(frozen=True)
class Klass(OfUnit):
    """what is sure and has stopped changing; the number of steps follows

    confidence: τ; divergence: ε in nats; history: n steps; fallback: k. Raises ValueError on values that make no sense.
    """

    confidence: float = 0.9
    divergence: float = 0.01
    history: int = 2
    fallback: int = 1
    name: ClassVar[str] = "klass"
    features: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.confidence <= 1 or not self.divergence > 0 or self.history < 1 or self.fallback < 1:
            raise ValueError(
                f"need confidence in [0, 1], divergence > 0, history and fallback >= 1; got {self.confidence}, "
                f"{self.divergence}, {self.history}, {self.fallback}"
            )

    def begin(self, start: Start) -> Memory:
        """probs: the last factors of each token's unit; digit: the first of that unit, -1 before it was seen; calm:
        steps."""
        shapes = [start.heads[span.name].unit_shape(span, self.unit) for span in start.canvas.spans]
        shape = start.batch, start.canvas.num_tokens
        return {
            "probs": torch.zeros(*shape, *(max(sizes) for sizes in zip(*shapes)), dtype=torch.float64),
            "digit": torch.full(shape, -1),
            "calm": torch.zeros(shape, dtype=torch.int64),
        }

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        example, token, digit = index.unbind(-1)
        factors, values = probs.shape[1:]
        before = memory["probs"][example, token, :factors, :values]
        known = memory["digit"][example, token] == digit
        ratio = probs.clamp(min=1e-300).log() - before.clamp(min=1e-300).log()
        calm = known & ((probs * ratio).sum(-1).sum(-1) < self.divergence)
        steps = torch.where(calm, memory["calm"][example, token] + 1, 0)
        memory["probs"][example, token, :factors, :values] = probs
        memory["digit"][example, token] = digit
        memory["calm"][example, token] = steps
        return torch.cat([chance(probs, value), steps[:, None].to(probs)], -1)

    def select(self, view: View) -> Reveal:
        sure, calm = view.feature.unbind(-1)
        stable = view.candidate & (sure > self.confidence) & (calm >= self.history)
        surest = view.best(sure, torch.full_like(view.left, self.fallback))
        return Reveal(view.masked_of(torch.where(stable.any(-1, keepdim=True), stable, surest), self.unit))
