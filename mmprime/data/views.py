"""The views of a picture whose codes a model is trained on: crops of it, each perhaps also mirrored.

center  the largest centred square, resized (bicubic, antialiased): one view, as MaskGIT's evaluation crop
adm     halved by box means while the short side is 2·S or more, resized bicubically until it is S, centre S × S:
        one view, as in ADM (arXiv 2105.05233) and LlamaGen (arXiv 2406.06525)
ten     adm at 1.1·S, of that the four corners and the middle, S × S, then all mirrored: LlamaGen's ten views
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .pictures import read_picture, read_square

if TYPE_CHECKING:
    from PIL.Image import Image

CROPS = ("center", "adm", "ten")
_MARGIN = 1.1  # of the ten crops


@dataclass(frozen=True)
class Views:
    """side: pixels; flip: each view also mirrored (the ten crops always are)."""

    side: int
    crop: str = "center"
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r} is not one of {', '.join(CROPS)}")

    @property
    def mirrored(self) -> bool:
        """Whether each view comes mirrored too."""
        return self.flip or self.crop == "ten"

    @property
    def count(self) -> int:
        """Views of a picture."""
        return (5 if self.crop == "ten" else 1) * (2 if self.mirrored else 1)

    def of(self, data: bytes, name: str) -> np.ndarray:
        """The views of a picture in a file, uint8 (count, 3, side, side). ValueError naming it if it cannot be read."""
        if self.crop == "center":
            crops = [np.asarray(read_square(data, self.side, name=name))]
        elif self.crop == "adm":
            crops = [_adm(read_picture(data, name), self.side)]
        else:
            crops = _five(_adm(read_picture(data, name), int(_MARGIN * self.side)), self.side)
        views = np.stack(crops)
        if self.mirrored:
            views = np.concatenate([views, views[:, :, ::-1]])
        return np.ascontiguousarray(views.transpose(0, 3, 1, 2))


def _adm(image: Image, side: int) -> np.ndarray:
    from PIL.Image import Resampling

    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image)[top : top + side, left : left + side]


def _five(square: np.ndarray, side: int) -> list[np.ndarray]:
    far = len(square) - side
    middle = round(far / 2)
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    return [square[top : top + side, left : left + side] for top, left in corners]
