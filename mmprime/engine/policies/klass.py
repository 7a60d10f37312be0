"""KLASS: what is sure and has stopped changing.

    show i  if  p_i(v_i) > τ  and  KL(p_i now ‖ p_i before) < ε  over the last n steps;   if none, the k surest

Laws are taken before temperature. Source: Kim et al., "KL-adaptive stability sampling", arXiv 2511.05664.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..policy import Choice, Look, Policy


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

    def start(self, batch: int, tokens: int) -> None:
        self._law: dict[tuple[int, int, int], Tensor] = {}
        self._calm = torch.zeros(batch, tokens, dtype=torch.int64)

    def state(self) -> dict[str, Tensor]:
        width = max((len(law) for law in self._law.values()), default=0)
        laws = [torch.nn.functional.pad(law, (0, width - len(law))) for law in self._law.values()]
        keys = torch.tensor(list(self._law), dtype=torch.int64).view(-1, 3)
        sizes = torch.tensor([len(law) for law in self._law.values()], dtype=torch.int64)
        laws_of = torch.stack(laws) if laws else torch.zeros(0, 0, dtype=torch.float64)
        return {"calm": self._calm.clone(), "keys": keys, "laws": laws_of, "sizes": sizes}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._calm = state["calm"].clone()
        rows = zip(state["keys"].tolist(), state["laws"], state["sizes"].tolist())
        self._law = {(b, i, digit): law[:size].clone() for (b, i, digit), law, size in rows}

    def describe(self, law: Tensor, value: Tensor, place: Tensor) -> Tensor:
        keys = [(b, i, digit) for b, i, digit in place.tolist()]
        known = torch.tensor([key in self._law for key in keys])
        before = torch.stack([self._law.get(key, row) for key, row in zip(keys, law)])
        ratio = law.clamp(min=1e-300).log() - before.clamp(min=1e-300).log()
        calm = known & ((law * ratio).sum(-1) < self.divergence)
        steps = torch.where(calm, self._calm[place[:, 0], place[:, 1]] + 1, 0)
        self._calm[place[:, 0], place[:, 1]] = steps
        self._law.update(zip(keys, law))
        return torch.stack([law.gather(-1, value[:, None])[:, 0], steps.double()], -1)

    def choose(self, look: Look) -> Choice:
        sure, calm = look.feature.unbind(-1)
        stable = look.candidate & (sure > self.confidence) & (calm >= self.history)
        surest = look.best(sure, torch.full_like(look.left, self.fallback))
        return Choice(torch.where(stable.any(-1, keepdim=True), stable, surest))
