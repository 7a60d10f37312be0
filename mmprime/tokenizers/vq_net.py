"""The convolutional autoencoder of VQGAN and latent diffusion (arXiv 2012.09841, 2112.10752), as others train it.

    encoder   conv 3×3;  per level: n residual blocks, halving by a 3×3 convolution of stride 2, padded right and below;
              middle: residual, attention, residual;  norm, swish, conv
    decoder   conv 3×3;  the middle;  per level from the coarsest: n + 1 residual blocks, doubling (nearest) and a
              convolution;  norm, swish, conv

A residual block adds its input, through a 1×1 convolution where widths differ. Norms are group norms of 32 groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class NormResidualBlock(nn.Module):
    """(B, in, h, w) -> (B, out, h, w)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(width), nn.Conv2d(width, out, 3, padding=1)
        self.norm2, self.conv2 = _norm(out), nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """One head over all positions, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(*(each(tokens)[:, None] for each in (self.q, self.k, self.v)))[:, 0]
        return x + self.out(h).transpose(1, 2).unflatten(2, x.shape[2:])


class Level(nn.Module):
    """Residual blocks of one resolution, each with attention after it where asked for; `resize` to the next one."""

    def __init__(self, width: int, out: int, blocks: int, attention: bool, resize: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(NormResidualBlock(width if n == 0 else out, out) for n in range(blocks))
        self.attention = nn.ModuleList(AttentionBlock(out) for _ in range(blocks if attention else 0))
        self.resize = nn.Conv2d(out, out, 3) if resize else None

    def forward(self, x: Tensor, up: bool) -> Tensor:
        for n, block in enumerate(self.blocks):
            x = block(x)
            x = self.attention[n](x) if len(self.attention) else x
        if self.resize is None:
            return x
        if up:
            x = F.pad(F.interpolate(x, scale_factor=2.0, mode="nearest"), (1, 1, 1, 1))
            return self.resize(x)
        padded = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(padded, self.resize.weight, self.resize.bias, stride=2)


class Middle(nn.Module):
    """Residual, attention where asked for, residual."""

    def __init__(self, width: int, attention: bool) -> None:
        super().__init__()
        self.first, self.last = NormResidualBlock(width, width), NormResidualBlock(width, width)
        self.attention = AttentionBlock(width) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(self.first(x)))


class VQEncoder(nn.Module):
    """(B, 3, H, W) -> (B, latent, H / 2^(levels - 1), ...). attention: in the middle, at the coarsest level."""

    def __init__(self, widths: Sequence[int], blocks: int, latent: int, attention: tuple[bool, bool]) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[max(0, n - 1)], width, blocks, attention[1] and n == last, n < last)
            for n, width in enumerate(widths)
        )
        self.middle = Middle(widths[-1], attention[0])
        self.norm_out, self.conv_out = _norm(widths[-1]), nn.Conv2d(widths[-1], latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.levels:
            x = level(x, up=False)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class VQDecoder(nn.Module):
    """The way back; levels from the coarsest."""

    def __init__(self, widths: Sequence[int], blocks: int, latent: int, attention: tuple[bool, bool]) -> None:
        super().__init__()
        down = list(widths)[::-1]
        self.conv_in = nn.Conv2d(latent, down[0], 3, padding=1)
        self.middle = Middle(down[0], attention[0])
        self.levels = nn.ModuleList(
            Level(down[max(0, n - 1)], width, blocks + 1, attention[1] and n == 0, n < len(down) - 1)
            for n, width in enumerate(down)
        )
        self.norm_out, self.conv_out = _norm(down[-1]), nn.Conv2d(down[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.conv_in(x))
        for level in self.levels:
            x = level(x, up=True)
        return self.conv_out(F.silu(self.norm_out(x)))
