"""What a page takes from strangers: limits on texts, numbers, pictures; each error is a sentence with the way out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mmprime.cli.errors import printable

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Limits:
    """Of one request. characters: of a text; steps: of a run, which takes up to two passes each; upload: bytes of a
    file; pixels: of a picture; waiting: requests in the queue, of which one is answered at a time."""

    characters: int = 300
    steps: int = 64
    readings: int = 16
    blank_tokens: int = 16
    guidance: float = 10.0
    temperature: float = 4.0
    upload: int = 10 * 2**20
    pixels: int = 2**24
    waiting: int = 16

    def text(self, value: object, what: str = "prompt") -> str:
        """A text. Raises ValueError on an empty one, a long one, and one that is no text."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"the {what} is empty; type a few words, such as red apple")
        if len(value) > self.characters:
            raise ValueError(
                f"the {what} has {len(value):,} characters, and at most {self.characters} are taken; shorten it"
            )
        if printable(value) != value:
            raise ValueError(f"the {what} {printable(value)[:60]!r} is no UTF-8; type it again")
        return value.strip()

    def whole(self, value: object, most: int, what: str, least: int = 1) -> int:
        """A whole number from `least` to `most`. Raises ValueError on any other."""
        return int(self.number(value, most, what, least, whole=True))

    def number(self, value: object, most: float, what: str, least: float = 0, whole: bool = False) -> float:
        """A number from `least` to `most`. Raises ValueError on any other."""
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not least <= value <= most or (whole and value != int(value)):  # type: ignore[operator, call-overload]
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{what} must be {kind} from {least:g} to {most:g}, not {str(value)[:40]!r}")
        return value  # type: ignore[return-value]

    def picture(self, file: str | Path | None, side: int) -> Tensor:
        """A picture file of any size as (3, side, side) in [0, 1], padded with white to a square.

        Raises ValueError on none, on one that is too large, and as `mmprime.data.pictures.read_square` does.
        """
        from mmprime.data.pictures import picture_size, read_square
        from mmprime.generation.images import to_tensor

        if not file:
            raise ValueError("there is no picture; give a file, or draw one first")
        size = Path(file).stat().st_size
        if size > self.upload:
            raise ValueError(f"the file has {size:,} bytes, and at most {self.upload:,} are taken; make it smaller")
        width, height = picture_size(file, "the file")
        if width * height > self.pixels:
            raise ValueError(
                f"the picture has {width} x {height} pixels, and at most {self.pixels:,} are taken; make it smaller"
            )
        return to_tensor(read_square(file, side, "pad", "the file"))


def brushed_codes(layers: Sequence[Any] | None, image: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Layers of a brush, PIL RGBA of side × side pixels over an image (3, H, W), -> the codes (h, w) bool they touch.

    Raises ValueError on layers of another size, and where nothing is brushed.
    """
    from PIL import Image as Pillow

    from mmprime.generation.inputs import mask_codes

    covered = np.zeros((side, side), dtype=bool)
    for layer in layers or ():
        if layer.size != (side, side):
            raise ValueError(
                f"the brush layer has {layer.width} x {layer.height} pixels, the picture {side} x {side}; "
                "clear the brush and paint again"
            )
        covered |= opacity(layer) > 0
    if not covered.any():
        raise ValueError("nothing is brushed; paint over the part that the rule is for")
    page = Pillow.new("RGB", (side, side), "white")
    return mask_codes(covered, page, image.shape[-1], grid)


def opacity(layer: Image) -> np.ndarray:
    """How opaque each pixel of a picture is, (H, W) uint8."""
    return np.asarray(layer.convert("RGBA"))[..., 3]
