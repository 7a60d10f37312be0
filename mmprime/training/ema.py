"""Exponential moving average of weights: ``e <- d·e + (1-d)·w`` after each step.

While the run is young the decay is ``min(d, (1+n)/(10+n))``, so the average forgets the random start quickly.
Only parameters are averaged; buffers (code books, tables) are used as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Average of the trainable parameters of ``module``; ``decay`` 0 keeps a plain copy of the newest weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"train.ema={decay} must lie in [0, 1)")
        self.decay = decay
        self._live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}

    def decay_at(self, updates: int) -> float:
        """Decay used for the update that follows ``updates`` earlier ones."""
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the average towards the weights; ``updates`` counts the earlier calls (it is the step)."""
        weights: list[Tensor] = list(self._live.values())
        averages = [self.average[name] for name in self._live]
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(updates))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the block the module computes with the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, average: dict[str, Tensor]) -> None:
        """Take over a stored average; raises ValueError if the names differ."""
        if average.keys() != self.average.keys():
            odd = sorted(average.keys() ^ self.average.keys())
            raise ValueError(f"stored EMA does not fit the model: {len(odd)} names differ, first {odd[0]!r}")
        for name, value in average.items():
            self.average[name].copy_(value)

    def _swap(self) -> None:
        for name, parameter in self._live.items():
            parameter.data, self.average[name] = self.average[name], parameter.data
