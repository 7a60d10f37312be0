"""What the engine asks of a network, and the lazy head.

A denoiser maps what is visible to hidden states, one for each token; its head turns the hidden states of *chosen*
tokens into logits over the codes. Only tokens with something to reveal ever reach the head, in chunks, so memory
does not grow with L·C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .canvas import Canvas, Span
from .grid import log_mass, log_posterior

Condition = Mapping[str, Tensor]
_CHUNK_ELEMENTS = 1 << 25
DRAWN_AT_ONCE = 1 << 21  # cells; what a draw makes of them stays in the cache of a CPU


class Denoiser(Protocol):
    """Visible state y (B, N) with `MASK_ID` where hidden -> hidden states (B, L, D); logits (M, C) in code order."""

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor: ...

    def logits(self, hidden: Tensor, span: Span) -> Tensor: ...


def forward_passes(denoiser: Denoiser, y: Tensor, cond: Condition | None) -> Tensor:
    """(B,) int64: passes of the network that one call takes for each example; 1 unless the denoiser has `passes`."""
    own = getattr(denoiser, "passes", None)
    return torch.ones(len(y), dtype=torch.int64, device=y.device) if own is None else own(y, cond)


def hidden_states(denoiser: Denoiser, y: Tensor, canvas: Canvas, cond: Condition | None, wanted: Tensor) -> Tensor:
