"""The interface of quantizers: vectors to digits and back.

A training step may be several micro-batches, shared by several processes: a code book stands still until
:meth:`Quantizer.update`, and moves by what all of them saw, so that it is the same whatever their number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmprime.engine import Codec

MOST_VECTORS = 2**24
"""Codes whose vectors are made into a table when it is asked for."""


class Quantized(NamedTuple):
    """What a quantizer returns."""

    vectors: Tensor  # (B, d, h, w), with gradients to the input
    digits: Tensor  # (B, h, w, S) int64
    loss: Tensor  # scalar, zero in eval mode


class Quantizer(nn.Module):
    """A map between vectors (B, d, h, w) and digits (B, h, w, S).

    ``bounds``: how many values each digit has, most significant first; one learned code book is one digit.
    ``transient`` names the buffers only training needs; they are not part of a saved tokenizer.
    """

    bounds: tuple[int, ...]
    transient: frozenset[str] = frozenset()
    ordinal = False  # digits are values on a line: FSQ, bits

    @property
    def num_codes(self) -> int:
        """C, the product of the bounds."""
        return math.prod(self.bounds)

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantize ``vectors`` (B, d, h, w)."""
        raise NotImplementedError

    def continuous(self, vectors: Tensor) -> Tensor:
        """``vectors`` (B, d, h, w) as the decoder gets them before anything is quantized, within the codes' range."""
        return vectors

    def near(self, digits: Tensor, share: Tensor) -> Tensor:
        """``digits`` (B, h, w, S), of each image b the share ``share[b]`` moved to a value next to its own.

        Raises:
            ValueError: for a learned code book, whose codes have no order.
        """
        if not self.ordinal:
            raise ValueError(f"{type(self).__name__} has no order of codes in which one is next to another")
        chosen = torch.rand(digits.shape, device=digits.device) < share[:, None, None, None]
        step = 2 * torch.randint_like(digits, 2) - 1
        last = torch.tensor(self.bounds, device=digits.device) - 1
        moved = digits + step
        inside = (moved >= 0) & (moved <= last)
        return torch.where(chosen, torch.where(inside, moved, digits - step), digits)

    def vectors_of(self, digits: Tensor) -> Tensor:
        """``digits`` (..., S), -1 where masked -> vectors (..., d); a masked digit gives the mean over its values."""
        raise NotImplementedError

    def codebook(self) -> Tensor:
        """(C, d): the vector of every code. Raises ValueError where C is above `MOST_VECTORS`."""
        if self.num_codes > MOST_VECTORS:
            raise ValueError(
                f"a table of the vectors of {self.num_codes} codes would be too large (at most {MOST_VECTORS}); use "
                "the digits"
            )
        device = next((buffer.device for buffer in self.buffers()), torch.device("cpu"))
        codes = torch.arange(self.num_codes, device=device)
        return self.vectors_of(Codec.product(self.bounds).encode(codes))

    def learner(self) -> Quantizer:
        """The same quantizer, to be trained on."""
        return self

    def restore_transient(self) -> None:
        """Set the transient buffers after the others were loaded."""

    def update(self) -> None:
        """Called by all processes after each step: learn from the vectors that went through since the last call."""
