"""Digits of tokens as bytes: a row of L tokens of S digits in ⌈L·W/8⌉ bytes, W = Σ_j ⌈log2 b_j⌉.

Digit after digit, the most significant bit first, without a gap between tokens; the last byte ends in zeros. Digits of
2, 4, ..., 128 values so take no more than their bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def widths(radices: Sequence[int]) -> list[int]:
    """Bits of each digit."""
    return [max(1, (base - 1).bit_length()) for base in radices]


def digit_dtype(radices: Sequence[int]) -> type[np.unsignedinteger]:
    """The smallest of uint8, uint16, uint32 that holds the digits."""
    return np.uint8 if max(radices) <= 2**8 else np.uint16 if max(radices) <= 2**16 else np.uint32


def pack_digits(digits: np.ndarray, radices: Sequence[int]) -> np.ndarray:
    """(m, L, S) digits -> (m, ⌈L·W/8⌉) uint8. Raises ValueError on a digit outside its radix."""
    if digits.size and ((digits < 0) | (digits >= np.asarray(radices))).any():
        raise ValueError(f"digits span [{digits.min()}, {digits.max()}], the radices are {list(radices)}")
    planes = [
        (digits[..., level] >> bit) & 1 for level, width in enumerate(widths(radices)) for bit in reversed(range(width))
    ]
    return np.packbits(np.stack(planes, -1).astype(np.uint8).reshape(len(digits), -1), axis=1)


def unpack_digits(packed: np.ndarray, tokens: int, radices: Sequence[int]) -> np.ndarray:
    """(m, ⌈L·W/8⌉) uint8 -> (m, L, S) digits of `digit_dtype`.

    Raises ValueError unless these are as many bytes as `tokens` need, and every digit lies below its radix.
    """
    each = widths(radices)
    needed = -(-tokens * sum(each) // 8)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != needed:
        raise ValueError(f"digits of shape {packed.shape} ({packed.dtype}), expected (m, {needed}) bytes")
    bits = np.unpackbits(packed, axis=1, count=tokens * sum(each)).reshape(len(packed), tokens, -1)
    digits = np.zeros((len(packed), tokens, len(each)), digit_dtype(radices))
    start = 0
    for level, width in enumerate(each):
        for bit in range(start, start + width):
            digits[..., level] = digits[..., level] << 1 | bits[..., bit]
        start += width
    if digits.size and (digits >= np.asarray(radices)).any():
        raise ValueError(f"digits up to {digits.max((0, 1)).tolist()}, the radices are {list(radices)}")
    return digits
