"""Semi-autoregressive blocks: the entropy bound inside a window of tokens that moves on when the window is filled.

    block(i) = floor(i / size);   only tokens of the first block that has something masked are candidates

Source: Arriola et al., "Block diffusion", arXiv 2503.09573; Nie et al. (LLaDA), arXiv 2502.09992.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .base import Reveal, View
from .entropy_bounded import EntropyBounded


@dataclass(frozen=True)
class Blocks(EntropyBounded):
    """window after window, inside each as the entropy bound allows; the number of steps follows

    size: tokens of a block. Raises ValueError on size < 1.
    """

    size: int = 16
    name: ClassVar[str] = "blocks"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"a block has at least one token, got size {self.size}")

    def window(self, candidate: Tensor) -> Tensor:
        block = torch.arange(candidate.shape[-1], device=candidate.device) // self.size
        first = torch.where(candidate, block, len(block)).amin(-1, keepdim=True)
        return candidate & (block == first)

    def select(self, view: View) -> Reveal:
        return super().select(replace(view, candidate=self.window(view.candidate)))
