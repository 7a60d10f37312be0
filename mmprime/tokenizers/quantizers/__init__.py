"""Quantizers by name: vectors (B, d, h, w) to digits (B, h, w, S) and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..config import ImageTokenizerConfig
from .base import Quantized, Quantizer
from .scalar import BSQ, FSQ, LFQ
from .several import GroupedVQ, ResidualVQ
from .vq import VQ, StoredVQ

__all__ = ["Quantized", "Quantizer", "build_quantizer", "code_usage", "digit_usage", "stored_quantizer", "usage"]

_KINDS: dict[str, Callable[[ImageTokenizerConfig], Quantizer]] = {
    "vq": VQ, "fsq": FSQ, "lfq": LFQ, "bsq": BSQ, "rvq": ResidualVQ, "gvq": GroupedVQ,
}  # fmt: skip
_STORED: dict[str, Callable[[ImageTokenizerConfig], Quantizer]] = {
    "vq": StoredVQ,
    "rvq": lambda config: ResidualVQ(config, stored=True),
    "gvq": lambda config: GroupedVQ(config, stored=True),
}


def build_quantizer(config: ImageTokenizerConfig) -> Quantizer:
    """The quantizer named by ``config.quantizer``."""
    config.check()
    return _KINDS[config.quantizer](config)


def stored_quantizer(config: ImageTokenizerConfig) -> Quantizer:
    """A quantizer to load weights into, which is not trained further."""
    return _STORED.get(config.quantizer, _KINDS[config.quantizer])(config)


def code_usage(codes: Tensor, num_codes: int) -> tuple[float, float]:
    """(share of codes that occur, perplexity exp(H) of their frequencies) in integer ``codes`` of any shape."""
    return usage(torch.bincount(codes.flatten().cpu(), minlength=num_codes))


def usage(counts: Tensor) -> tuple[float, float]:
    """(share of codes that occur, perplexity exp(H) of their frequencies), counts (C,): how often each occurs."""
    share = counts[counts > 0].double() / counts.sum()
    return len(share) / len(counts), math.exp(float(-(share * share.log()).sum()))


def digit_usage(digits: Tensor, radices: Sequence[int]) -> list[tuple[float, float]]:
    """(share of values used, perplexity of their frequencies) of each digit level of ``digits`` (..., S)."""
    return [code_usage(digits[..., level], base) for level, base in enumerate(radices)]
