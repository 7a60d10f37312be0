"""What an image tokenizer loses and uses.

PSNR = -10 log10 mean (x - x')²  in dB, pixels in [0, 1], of each image; then the mean over images
use = share of the code book that occurs;  perplexity = exp H(code frequencies)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmprime.io import bar
from mmprime.tokenizers import ImageTokenizer
from mmprime.tokenizers.quantizers import code_usage

_FLOOR = 1e-8  # of the mean squared error: an exact copy counts 80 dB


class Reconstructed(NamedTuple):
    """images uint8 (n, 3, H, W); psnr (n,) dB; use: share of codes; perplexity: of codes."""

    images: Tensor
    psnr: Tensor
    use: float
    perplexity: float


def psnr(original: Tensor, restored: Tensor) -> Tensor:
    """(n,) dB of images (n, 3, H, W) in [0, 1]; at most 80."""
    error = (original.double() - restored.double()).square().mean((1, 2, 3))
    return -10 * error.clamp(min=_FLOOR).log10()


def reconstruct(tokenizer: ImageTokenizer, images: Tensor, batch: int = 64, progress: bool = False) -> Reconstructed:
    """uint8 images (n, 3, H, W) through the tokenizer. Raises ValueError when their size is not the tokenizer's."""
    size = tokenizer.image_size
    if tuple(images.shape[-2:]) != (size, size):
        raise ValueError(
            f"the pictures are {images.shape[-1]} x {images.shape[-2]} px, the tokenizer takes {size} x {size}"
        )
    device = next(tokenizer.parameters()).device
    restored, scores, codes = [], [], []
    for part in bar(images.split(batch), "tokenizer", "batch", progress):
        pixels = part.to(device).float() / 255
        codes.append(tokenizer.encode(pixels))
        decoded = tokenizer.decode(codes[-1])
        scores.append(psnr(pixels, decoded).cpu())
        restored.append((decoded * 255).round().byte().cpu())
    return Reconstructed(torch.cat(restored), torch.cat(scores), *code_usage(torch.cat(codes), tokenizer.num_codes))
