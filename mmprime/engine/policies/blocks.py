"""Semi-autoregressive blocks: a policy inside a window of tokens that moves on when the window is filled.

    block(i) = floor(i / size);   only tokens of the first block that has something hidden are candidates

Source: Arriola et al., "Block diffusion", arXiv 2503.09573; Nie et al. (LLaDA), arXiv 2502.09992.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..policy import Choice, Digits, Look, Policy


class Blocks(Policy):
    """size: tokens of a block; inner: the policy inside it. Raises ValueError on size < 1."""

    def __init__(self, inner: Policy, size: int = 16) -> None:
        super().__init__(inner.unit)
        if size < 1:
            raise ValueError(f"a block has at least one token, got size {size}")
        self.inner, self.size = inner, size
        self.features = inner.features

    @property
    def sharpness(self) -> float:
        return self.inner.sharpness

    def start(self, batch: int, tokens: int) -> None:
        self.inner.start(batch, tokens)

    def state(self) -> dict[str, Tensor]:
        return self.inner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.inner.load_state(state)

    def describe(self, law: Tensor, value: Tensor, place: Tensor) -> Tensor:
        return self.inner.describe(law, value, place)

    def window(self, hidden: Tensor) -> Tensor:
        block = torch.arange(hidden.shape[-1], device=hidden.device) // self.size
        first = torch.where(hidden, block, len(block)).amin(-1, keepdim=True)
        return hidden & (block == first)

    def choose(self, look: Look) -> Choice | Digits:
        return self.inner.choose(replace(look, candidate=self.window(look.candidate)))
