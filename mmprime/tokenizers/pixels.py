"""Pixels as tokens: the identity as an image tokenizer.

A token is one pixel, of one intensity (grey pictures) or three. An intensity in 0..255 is written in digits:

    values   one digit of 256 values
    nibbles  two of 16
    bits     eight of 2

most significant first; of a pixel of three intensities, the most significant digits of red, green and blue come first.
A masked digit counts as the mean of its values, (b - 1)/2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .base import ImageTokenizerBase, fill, open_weights, read_tokenizer_config, require_kind

DIGITS = {"values": (256,), "nibbles": (16, 16), "bits": (2,) * 8}
_LARGEST = 4096


class PixelTokenizer(ImageTokenizerBase):
    """Pictures of `image_size`² pixels, `channels` 1 (grey) or 3, intensities in `digits`: values, nibbles or bits.

    Raises:
        ValueError: for a size, a number of channels or a kind of digits that there is not.
    """

    kind = "pixels"

    def __init__(self, image_size: int, channels: int = 1, digits: str = "values") -> None:
        super().__init__()
        if type(image_size) is not int or not 1 <= image_size <= _LARGEST:
            raise ValueError(f"image_size={image_size!r} must lie in [1, {_LARGEST}]")
        if type(channels) is not int or channels not in (1, 3):
            raise ValueError(f"channels={channels!r} must be 1 (grey) or 3")
        if digits not in DIGITS:
            raise ValueError(f"digits={digits!r} is unknown; choose from {', '.join(DIGITS)}")
        self._size, self.channels, self.digits = image_size, channels, digits
        self.levels = DIGITS[digits]
        self.radices = tuple(base for base in self.levels for _ in range(channels))

    @classmethod
    def load(cls, directory: str | Path) -> PixelTokenizer:
        """The tokenizer saved in `directory`. Raises ValueError if a file is absent or damaged, or a value is odd."""
        content = read_tokenizer_config(directory)
        require_kind(directory, content, cls.kind)
        try:
            tokenizer = cls(**content["config"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{Path(directory) / 'config.json'}: {error}") from error
        with open_weights(directory, content) as file:
            fill(Path(directory) / "model.safetensors", tokenizer._essential_state(), file)
        return tokenizer.eval()

    @property
    def image_size(self) -> int:
        return self._size

    @property
    def downsample(self) -> int:
        return 1

    def _digits(self, images: Tensor) -> Tensor:
        rest = (images * 255).round().long()
        if self.channels == 1 and not (rest == rest[:, :1]).all():
            raise ValueError("the pictures are coloured and the tokenizer takes grey ones; make one of channels=3")
        rest, columns = rest[:, : self.channels], []
        for base in reversed(self.levels):
            columns.append(rest % base)
            rest = rest // base
        return rearrange(torch.stack(columns[::-1], -1), "b c h w s -> b h w (s c)")

    def _images(self, digits: Tensor) -> Tensor:
        values = rearrange(digits, "b h w (s c) -> s b c h w", c=self.channels)
        total = torch.zeros(values.shape[1:], device=digits.device)
        for base, digit in zip(self.levels, values):
            total = total * base + torch.where(digit < 0, (base - 1) / 2, digit.float())
        return (total / 255).expand(-1, 3, -1, -1)

    def _settings(self) -> dict[str, Any]:
        return {"image_size": self._size, "channels": self.channels, "digits": self.digits}
