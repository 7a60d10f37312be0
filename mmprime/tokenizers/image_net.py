"""The convolutional encoder and decoder: space-to-depth at both ends, residual blocks between.

Nearly all work happens on image_size / patch pixels and fewer, in channels-last memory, which is what a CPU needs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .config import ImageTokenizerConfig


class ResidualBlock(nn.Module):
    """``x + W·silu(conv3×3(silu(norm(x))))``, with W = 0 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same shape."""
        return x + self.out(functional.silu(self.conv(functional.silu(self.norm(x)))))


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(count)]


class Encoder(nn.Sequential):
    """(B, 3, H, W) in [0, 1] -> (B, d, H / downsample, W / downsample)."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        widths = config.widths
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1),
        ]
        for level, (width, blocks) in enumerate(zip(widths, config.encoder_blocks)):
            if level:
                layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * widths[level - 1], width, 1)]
            layers += _blocks(width, blocks)
        layers += [nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], config.latent_dim, 1)]
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """(B, d, h, w) -> (B, 3, h · downsample, w · downsample), not clamped."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        widths = config.widths
        layers: list[nn.Module] = [nn.Conv2d(config.latent_dim, widths[-1], 3, padding=1)]
        for level in reversed(range(len(widths))):
            layers += _blocks(widths[level], config.decoder_blocks[level])
            if level:
                layers += [nn.Conv2d(widths[level], 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
        layers += [
            nn.GroupNorm(8, widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1),
            nn.PixelShuffle(config.patch),
        ]
        super().__init__(*layers)
