"""The convolutional autoencoders that others train as image tokenizers: one network, and how its families differ.

    encoder   conv 3×3;  per level: n residual blocks, then halving;  middle;  norm, swish, conv
    decoder   conv 3×3;  the middle;  per level from the coarsest: residual blocks, then doubling;  norm, swish, conv

| family | a residual block adds | halving | doubling | middle | from (arXiv) |
|---|---|---|---|---|---|
| vqgan | its input | conv, padded right and below | nearest | with attention | 2012.09841, 2112.10752 |
| maskgit | its output, where widths differ | mean of 2×2 | nearest | n blocks | 2202.04200 |
| maskbit | as maskgit | as vqgan | nearest | n blocks | 2409.16211 |
| magvit2 | its input | conv, padded all round | depth to space | n blocks | 2409.04410 |
| cosmos | its input; all of 4×4 Haar patches | as vqgan | nearest | with attention | 2501.03575 |

What is added goes through a 1×1 convolution where widths differ. magvit2 norms each decoder level by the code map
z (d channels): y = (γ·std z + g) norm(x) + β·mean z + b, over all positions. Norms are group norms of 32 groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """bias: of the convolutions of residual blocks and of the encoder's first; of_output: where widths differ a block
    adds its own output; halve: right, round or mean; to_space: depth to space; attended: the middle has attention;
    more: blocks of a decoder level beyond the encoder's; kernel: of the encoder's last convolution; projected: there
    are quant_conv and post_quant_conv; haar: pixels a side of a patch."""

    bias: bool = True
    of_output: bool = False
    halve: str = "right"
    to_space: bool = False
    attended: bool = True
    more: int = 1
    kernel: int = 3
    projected: bool = True
    haar: int = 1


_PLAIN = Family(bias=False, attended=False, more=0, kernel=1, projected=False)
FAMILIES = {
    "vqgan": Family(),
    "maskgit": replace(_PLAIN, of_output=True, halve="mean"),
    "maskbit": replace(_PLAIN, of_output=True),
    "magvit2": replace(_PLAIN, halve="round", to_space=True),
    "cosmos": Family(haar=4),
}


@dataclass(frozen=True)
class NetConfig:
    """stem: channels before the first level; widths: of each level, finest first; blocks: residual ones of a level;
    latent: channels between the two networks; attention: in the middle, at the coarsest level; halvings: how many."""

    family: Family
    stem: int
    widths: tuple[int, ...]
    blocks: int
    latent: int
    attention: tuple[bool, bool]
    halvings: int


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class NormResidualBlock(nn.Module):
    """(B, in, h, w) -> (B, out, h, w)."""

    def __init__(self, width: int, out: int, family: Family) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(width), nn.Conv2d(width, out, 3, padding=1, bias=family.bias)
        self.norm2, self.conv2 = _norm(out), nn.Conv2d(out, out, 3, padding=1, bias=family.bias)
        self.of_output = family.of_output and width != out
        added = nn.Conv2d(out if family.of_output else width, out, 1, bias=family.bias)
        self.shortcut = added if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(h if self.of_output else x) + h


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


class CodeNorm(nn.Module):
    """Group norm whose scale and shift are linear in the spread and the mean of a code map."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Linear(codes, width), nn.Linear(codes, width)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        flat = codes.flatten(2)
        scale, shift = self.gamma((flat.var(-1) + 1e-6).sqrt()), self.beta(flat.mean(-1))
        return scale[..., None, None] * F.group_norm(x, 32, eps=1e-6) + shift[..., None, None]


class Level(nn.Module):
    """Residual blocks of one resolution, each with attention after it where asked for; then, with `halve` or `double`,
    the next one."""

    def __init__(self, width: int, out: int, blocks: int, attention: bool, family: Family) -> None:
        super().__init__()
        self.family, self.halves, self.doubles = family, False, False
        self.resize: nn.Conv2d | None = None
        self.blocks = nn.ModuleList(NormResidualBlock(width if n == 0 else out, out, family) for n in range(blocks))
        self.attention = nn.ModuleList(AttentionBlock(out) for _ in range(blocks if attention else 0))
        self.width = out

    def halve(self) -> Level:
        self.halves = True
        self.resize = nn.Conv2d(self.width, self.width, 3) if self.family.halve != "mean" else None
        return self

    def double(self) -> Level:
        self.doubles = True
        self.resize = nn.Conv2d(self.width, self.width * (4 if self.family.to_space else 1), 3, padding=1)
        return self

    def forward(self, x: Tensor) -> Tensor:
        for n, block in enumerate(self.blocks):
            x = block(x)
            x = self.attention[n](x) if len(self.attention) else x
        if self.halves:
            return self._half(x)
        return self._double(x) if self.doubles else x

    def _half(self, x: Tensor) -> Tensor:
        if self.resize is None:
            return F.avg_pool2d(x, 2)
        x = F.pad(x, (0, 1, 0, 1) if self.family.halve == "right" else (1, 1, 1, 1))
        return F.conv2d(x, self.resize.weight, self.resize.bias, stride=2)

    def _double(self, x: Tensor) -> Tensor:
        assert self.resize is not None
        if not self.family.to_space:
            return self.resize(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.resize(x).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 2)


class Middle(nn.Module):
    """Residual, attention where asked for, residual."""

    def __init__(self, width: int, attention: bool, family: Family) -> None:
        super().__init__()
        self.first, self.last = NormResidualBlock(width, width, family), NormResidualBlock(width, width, family)
        self.attention = AttentionBlock(width) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(self.first(x)))


def _middle(net: NetConfig) -> nn.Module:
    width = net.widths[-1]
    if net.family.attended:
        return Middle(width, net.attention[0], net.family)
    return nn.Sequential(*(NormResidualBlock(width, width, net.family) for _ in range(net.blocks)))


def to_haar(x: Tensor, times: int) -> Tensor:
    """(B, c, 2h, 2w) -> (B, 4c, h, w), `times` over: mean, differences of rows, of columns, of diagonals."""
    for _ in range(times):
        a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
        x = torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], 1) / 4
    return x


def from_haar(x: Tensor, times: int) -> Tensor:
    """The inverse of `to_haar`."""
    for _ in range(times):
        mean, rows, columns, both = x.chunk(4, 1)
        parts = [mean + rows + columns + both, mean + rows - columns - both]
        parts += [mean - rows + columns - both, mean - rows - columns + both]
        x = F.pixel_shuffle(torch.stack(parts, 2).flatten(1, 2), 2)
    return x


class VQEncoder(nn.Module):
    """(B, 3, H, W) -> (B, latent, h, w)."""

    def __init__(self, net: NetConfig) -> None:
        super().__init__()
        family, last, widths = net.family, len(net.widths) - 1, (net.stem, *net.widths)
        self.patchings = family.haar.bit_length() - 1
        self.conv_in = nn.Conv2d(3 * family.haar**2, net.stem, 3, padding=1, bias=family.bias)
        levels = [
            Level(widths[n], width, net.blocks, net.attention[1] and n == last, family)
            for n, width in enumerate(net.widths)
        ]
        self.levels = nn.ModuleList(level.halve() if n < net.halvings else level for n, level in enumerate(levels))
        self.middle = _middle(net)
        kernel, padding = family.kernel, family.kernel // 2
        self.norm_out, self.conv_out = _norm(widths[-1]), nn.Conv2d(widths[-1], net.latent, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(to_haar(x, self.patchings))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class VQDecoder(nn.Module):
    """The way back; levels from the coarsest."""

    def __init__(self, net: NetConfig) -> None:
        super().__init__()
        family, down = net.family, net.widths[::-1]
        before = (down[0], *down)
        self.patchings = family.haar.bit_length() - 1
        self.conv_in = nn.Conv2d(net.latent, down[0], 3, padding=1)
        self.middle = _middle(net)
        levels = [
            Level(before[n], width, net.blocks + family.more, net.attention[1] and n == 0, family)
            for n, width in enumerate(down)
        ]
        self.levels = nn.ModuleList(level.double() if n < net.halvings else level for n, level in enumerate(levels))
        norms: Sequence[nn.Module] = [CodeNorm(net.latent, before[n]) for n in range(len(down) * family.to_space)]
        self.adaptive = nn.ModuleList(norms)
        self.norm_out, self.conv_out = _norm(down[-1]), nn.Conv2d(down[-1], 3 * family.haar**2, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.middle(self.conv_in(codes))
        for n, level in enumerate(self.levels):
            x = level(self.adaptive[n](x, codes) if len(self.adaptive) else x)
        return from_haar(self.conv_out(F.silu(self.norm_out(x))), self.patchings)
