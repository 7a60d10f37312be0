"""Sets of pictures to be measured, in memory or in a folder, and statistics that stand in for one.

Every set has a length, uint8 pictures (3, H, W) of one size by number, and a fingerprint of what it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mmprime.data.folders import PICTURES, list_folder
from mmprime.data.pictures import READING, picture_size, read_picture, read_square

from ..provenance import DIGITS, hash_files, tensor_hash


class PictureSet(Protocol):
    """uint8 pictures (3, H, W) of one size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...

    def fingerprint(self) -> str:
        """16 hex digits: equal for sets that hold the same pictures in the same order."""
        ...


class PictureArray:
    """Pictures (n, 3, H, W) in memory. Raises ValueError on anything but that, uint8."""

    def __init__(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"pictures must be uint8 (n, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def fingerprint(self) -> str:
        return tensor_hash(self.images)


class PictureFiles:
    """Pictures read from their files one at a time, so that 50,000 of them need no memory.

    crop: None asks for files of one size; else the largest centred square of each file is resized (bicubic, with
    antialiasing) to crop × crop, a file of that size staying as it is. note: what a folder left out.
    Raises ValueError on no file, an unreadable one and, without crop, on two sizes.
    """

    def __init__(self, files: list[Path], crop: int | None = None, note: str = "") -> None:
        if not files:
            raise ValueError("no picture files")
        self.files, self.crop, self.note = files, crop, note
        if crop is None:
            self._check_sizes()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        file = self.files[index]
        picture = read_picture(file) if self.crop is None else read_square(file, self.crop)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{READING} {self.crop} {hash_files(*self.files)}".encode()).hexdigest()[:DIGITS]

    def _check_sizes(self) -> None:
        sizes: dict[tuple[int, int], Path] = {}
        for file in self.files:
            sizes.setdefault(picture_size(file), file)
            if len(sizes) > 1:
                (one, first), (two, second) = sizes.items()
                raise ValueError(
                    f"pictures of different sizes: {first} is {one[0]} x {one[1]}, {second} is {two[0]} x {two[1]}"
                )


def read_folder(folder: str | Path, crop: int | None = None) -> PictureFiles:
    """All pictures of a folder and the folders in it, in the order of their paths; `note` says what is left out.

    Raises ValueError on a missing folder, fewer than two pictures, and as `PictureFiles` does.
    """
    listed = list_folder(folder, PICTURES)
    if len(listed.files) < 2:
        said = f"; {listed.note()}" if listed.left_out else ""
        raise ValueError(f"{folder} holds {len(listed.files)} pictures ({', '.join(PICTURES)}); two are needed{said}")
    return PictureFiles(listed.paths(), crop, listed.note())


@dataclass(frozen=True)
class Statistics:
    """mean (d,) and covariance (d, d) of features, and the hash of where they come from."""

    mean: Tensor
    covariance: Tensor
    fingerprint: str


def stacked(pictures: PictureSet, batch: int) -> Iterator[Tensor]:
    """The pictures as uint8 (b, 3, H, W), b <= batch."""
    for start in range(0, len(pictures), batch):
        yield torch.stack([pictures[index] for index in range(start, min(start + batch, len(pictures)))])
