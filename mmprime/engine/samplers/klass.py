"""KLASS: what is sure and has stopped changing.

    show i  if  p_i(v_i) > τ  and  KL(p_i now ‖ p_i before) < ε  over the last n steps;   if none, the k surest

Laws are taken before temperature. Source: Kim et al., "KL-adaptive stability sampling", arXiv 2511.05664.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..canvas import Canvas
from ..policy import Choice, Look, Memory, Policy


class Klass(Policy):
    """confidence: τ; divergence: ε in nats; history: n steps; fallback: k. Raises ValueError on values that make no
    sense."""

    features = 2

    def __init__(
        self,
        confidence: float = 0.9,
        divergence: float = 0.01,
        history: int = 2,
        fallback: int = 1,
        unit: str = "digit",
    ) -> None:
        super().__init__(unit)
        if not 0 <= confidence <= 1 or not divergence > 0 or history < 1 or fallback < 1:
            raise ValueError(
                f"need confidence in [0, 1], divergence > 0, history and fallback >= 1; got {confidence}, "
                f"{divergence}, {history}, {fallback}"
            )
        self.confidence, self.divergence, self.history, self.fallback = confidence, divergence, history, fallback

    def remember(self, batch: int, canvas: Canvas) -> Memory:
        """law: the last one of each token's unit; digit: the first of that unit, -1 before it was seen; calm: steps."""
        codecs = [span.codec for span in canvas.spans]
        width = max(max(codec.radices) if self.unit == "digit" else codec.num_cells for codec in codecs)
        shape = batch, canvas.num_tokens
        return {
            "law": torch.zeros(*shape, width, dtype=torch.float64),
            "digit": torch.full(shape, -1),
            "calm": torch.zeros(shape, dtype=torch.int64),
        }

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        example, token, digit = place.unbind(-1)
        before = memory["law"][example, token, : law.shape[-1]]
        known = memory["digit"][example, token] == digit
        ratio = law.clamp(min=1e-300).log() - before.clamp(min=1e-300).log()
        calm = known & ((law * ratio).sum(-1) < self.divergence)
        steps = torch.where(calm, memory["calm"][example, token] + 1, 0)
        memory["law"][example, token, : law.shape[-1]] = law
        memory["digit"][example, token] = digit
        memory["calm"][example, token] = steps
        return torch.stack([law.gather(-1, value[:, None])[:, 0], steps.to(law)], -1)

    def choose(self, look: Look) -> Choice:
        sure, calm = look.feature.unbind(-1)
        stable = look.candidate & (sure > self.confidence) & (calm >= self.history)
        surest = look.best(sure, torch.full_like(look.left, self.fallback))
        return Choice(torch.where(stable.any(-1, keepdim=True), stable, surest))
