"""What an image tokenizer loses and uses.

PSNR = -10 log10 mean (x - x')²  in dB, pixels in [0, 1], of each image; then the mean over images
SSIM = mean over windows and channels of (2μμ' + c₁)(2σ_xx' + c₂) / ((μ² + μ'² + c₁)(σ² + σ'² + c₂)), Gaussian windows
       of 11 pixels with σ = 1.5 that lie inside the image, c₁ = 0.01², c₂ = 0.03² (Wang et al., IEEE TIP 13, 2004)
use = share of the code book, or of the values of a digit level, that occurs;  perplexity = exp H(frequencies)
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmprime.data.codes import device_of
from mmprime.data.digit_order import psnr
from mmprime.io import bar
from mmprime.tokenizers import ImageTokenizerBase
from mmprime.tokenizers.quantizers import digit_usage

_WINDOW, _SIGMA = 11, 1.5


class Reconstructed(NamedTuple):
    """images uint8 (n, 3, H, W); psnr (n,) dB; ssim (n,); levels: of each digit (one: the code) the share of values
    used and their perplexity; seconds: of encoding and decoding."""

    images: Tensor
    psnr: Tensor
    ssim: Tensor
    levels: list[tuple[float, float]]
    seconds: float


def ssim(original: Tensor, restored: Tensor) -> Tensor:
    """(n,) of images (n, 3, H, W) in [0, 1]; 1 for equal ones. The window of a smaller image is its largest odd one."""
    size = min(_WINDOW, *(side - 1 + side % 2 for side in original.shape[-2:]))
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    line = (-(axis**2) / (2 * _SIGMA**2)).exp().to(original.device)
    line = line / line.sum()

    def smooth(x: Tensor) -> Tensor:
        x = functional.conv2d(x.flatten(0, 1)[:, None], line[None, None, :, None])
        return functional.conv2d(x, line[None, None, None]).unflatten(0, original.shape[:2])

    x, z = original.double(), restored.double()
    mean_x, mean_z = smooth(x), smooth(z)
    both = smooth(x * z) - mean_x * mean_z
    each = smooth(x * x) - mean_x**2 + smooth(z * z) - mean_z**2
    light = (2 * mean_x * mean_z + 0.01**2) / (mean_x**2 + mean_z**2 + 0.01**2)
    return (light * (2 * both + 0.03**2) / (each + 0.03**2)).mean((1, 2, 3, 4))


def reconstruct(
    tokenizer: ImageTokenizerBase, images: Tensor, batch: int = 64, progress: bool = False
) -> Reconstructed:
    """uint8 images (n, 3, H, W) through the tokenizer. Raises ValueError when their size is not the tokenizer's."""
    size = tokenizer.image_size
    if tuple(images.shape[-2:]) != (size, size):
        raise ValueError(
            f"the pictures are {images.shape[-1]} x {images.shape[-2]} px, the tokenizer takes {size} x {size}"
        )
    device, seconds = device_of(tokenizer), 0.0
    restored, errors, structure, digits = [], [], [], []
    for part in bar(images.split(batch), "tokenizer", "batch", progress):
        pixels = part.to(device).float() / 255
        start = time.perf_counter()
        digits.append(tokenizer.encode_digits(pixels))
        decoded = tokenizer.decode_digits(digits[-1])
        seconds += time.perf_counter() - start
        errors.append(psnr(pixels, decoded).cpu())
        structure.append(ssim(pixels, decoded).cpu())
        restored.append((decoded * 255).round().byte().cpu())
    used = digit_usage(torch.cat(digits), tokenizer.codec().radices)
    return Reconstructed(torch.cat(restored), torch.cat(errors), torch.cat(structure), used, seconds)
