"""Semi-autoregressive blocks: a policy inside a window of tokens that moves on when the window is filled.

    block(i) = floor(i / size);   only tokens of the first block that has something hidden are candidates

Source: Arriola et al., "Block diffusion", arXiv 2503.09573; Nie et al. (LLaDA), arXiv 2502.09992.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..canvas import Canvas
from ..policy import Choice, Digits, Look, Memory, Policy


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

    def remember(self, batch: int, canvas: Canvas) -> Memory:
        return self.inner.remember(batch, canvas)

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return self.inner.describe(law, value, place, memory)

    def window(self, hidden: Tensor) -> Tensor:
        block = torch.arange(hidden.shape[-1], device=hidden.device) // self.size
        first = torch.where(hidden, block, len(block)).amin(-1, keepdim=True)
        return hidden & (block == first)

    def choose(self, look: Look) -> Choice | Digits:
        return self.inner.choose(replace(look, candidate=self.window(look.candidate)))
