"""Captioned images: reading image shards into memory, and making them from a folder of pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmprime.io import parse_json

from .building import build_dataset
from .folders import display_name
from .keys import safe_key
from .picture_folder import FolderImage, scan_folder
from .pictures import READING, read_picture, read_square
from .shards import Entry, Unit, canonical_json, digest, field_of, read_index, read_shard, split_shards
from .storage import RETRIES

EXTENSIONS = ("webp", "png", "jpg", "jpeg")
UNIT_IMAGES = 1000
_BLOCK = 64
EACH = ("captions", "tags", "vendors", "keys", "splits")  # fields with one entry an image


def known_image(files: dict[str, bytes], where: str) -> bytes:
    """The image bytes of a sample, whatever their format. Raises ValueError naming `where` if there are none."""
    for extension in EXTENSIONS:
        if extension in files:
            return files[extension]
    raise ValueError(f"{where} holds no image (.{', .'.join(EXTENSIONS)}), only {sorted(files)}")


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Image bytes to uint8 (H, W, 3). Raises ValueError naming `where` if they cannot be read."""
    return np.asarray(read_picture(data, where))


def captions_of(record: dict[str, Any]) -> list[str]:
    """All captions of a sample's JSON, the first one first; none if that is blank."""
    return [str(caption) for caption in (record.get("caption", ""), *record.get("more_captions", ())) if caption]


def several(more: list[list[str]]) -> list[list[str]]:
    """Further captions by image, or [] when no image has any."""
    return more if any(more) else []


@dataclass(kw_only=True)
class Captioned:
    """What is known about n images.

    captions, tags, vendors, keys, splits: one entry an image; labels: int64 (n,) with -1 where unlabelled, or None if
    nothing is labelled; classes: names of the labels (may be empty); more_captions: further captions of each image;
    empty if no image has any.
    """

    captions: list[str]
    tags: list[list[str]]
    vendors: list[str]
    labels: Tensor | None
    keys: list[str]
    splits: list[str]
    classes: list[str]
    more_captions: list[list[str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(kw_only=True)
class ImageDataset(Captioned):
    """Captioned images in memory. images: uint8 (n, 3, H, W)."""

    images: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every image."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    def select(self, positions: Sequence[int]) -> ImageDataset:
        """The images at these positions, in this order."""
        pick = list(positions)
        more = several([self.more_captions[i] for i in pick]) if self.more_captions else []
        labels = None if self.labels is None else self.labels[pick]
        parts = {name: [getattr(self, name)[i] for i in pick] for name in EACH}
        return replace(self, images=self.images[pick], labels=labels, more_captions=more, **parts)

    @classmethod
    def load(cls, path: str | Path, split: str | None = None) -> ImageDataset:
        """Read one split (None: all) of an image dataset folder; every shard is verified.

        Raises ValueError for a missing or damaged folder, an unknown split, an unreadable image, mixed sizes.
        """
        index = read_index(path, "images")
        return cls.from_shards(path, index, split_shards(index, split))

    @classmethod
    def from_shards(cls, path: str | Path, index: dict[str, Any], shards: list[dict[str, Any]]) -> ImageDataset:
        """Read the given index entries (some of `index["shards"]`)."""
        images: list[np.ndarray] = []
        records: list[dict[str, Any]] = []
        keys: list[str] = []
        splits: list[str] = []
        for entry in shards:
            for key, files in read_shard(path, entry):
                where = f"{entry['file']}: {key}"
                image = decode_image(known_image(files, where), where)
                if images and image.shape != images[0].shape:
                    raise ValueError(
                        f"{where} is {image.shape[1]}×{image.shape[0]} px, but {keys[0]} is "
                        f"{images[0].shape[1]}×{images[0].shape[0]}: all images must have one size"
                    )
                images.append(image)
                records.append(parse_json(field_of(files, "json", where), where))
                keys.append(key)
                splits.append(entry["split"])
        labels = [int(record.get(index.get("label", "label"), -1)) for record in records]
        return cls(
            images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            captions=[str(record.get("caption", "")) for record in records],
            tags=[list(record.get("tags", ())) for record in records],
            vendors=[str(record.get("vendor", "")) for record in records],
            labels=torch.tensor(labels) if any(label >= 0 for label in labels) else None,
            keys=keys,
            splits=splits,
            classes=list(index.get("classes", ())),
            more_captions=several([captions_of(record)[1:] for record in records]),
        )


def image_blocks(path: str | Path, entry: dict[str, Any], retries: int = RETRIES) -> Iterator[list[tuple[bytes, str]]]:
    """The pictures of one verified shard in its order, some at a time: (bytes, what errors call it)."""
    block: list[tuple[bytes, str]] = []
    for key, files in read_shard(path, entry, retries):
        where = f"{entry['file']}: {key}"
        block.append((known_image(files, where), where))
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


# ------------------------------------------------------------------------------------------ folders of pictures


def image_sample(
    source: Path | bytes, name: str, size: int, about: tuple[tuple[str, ...], int, str]
) -> tuple[str, Entry]:
    """(split, sample) of a picture of any size; about: its captions, label and split. Raises as `read_square`."""
    buffer, (captions, label, split) = io.BytesIO(), about
    called = display_name(source) if isinstance(source, Path) else name
    read_square(source, size, name=called).save(buffer, "WEBP", quality=95, method=4)
    caption, *more = captions or ("",)
    record = {"caption": caption, "tags": [], "vendor": "", "label": label, "split": split}
    record |= {"more_captions": more} if more else {}
    return split, Entry(safe_key(name), {"webp": buffer.getvalue(), "json": canonical_json(record)})


def _folder_samples(images: list[FolderImage], size: int) -> Iterator[tuple[str, Entry]]:
    for item in images:
        yield image_sample(item.path, item.name, size, (item.captions, item.label, item.split))


def prepare_folder(
    folder: str | Path,
    out: str | Path,
    size: int = 64,
    split_fraction: float = 0.05,
    licence: str = "unknown",
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Turn a folder of pictures (see `scan_folder`) into image shards of `size` px; return the index.

    say: is given a line on what was left out and why, and on splits, classes and captions; the index holds the counts
    of what was left out. Raises ValueError as `scan_folder` does, and for a picture that cannot be read, by its name.
    """
    if size < 1 or not 0 <= split_fraction < 1:
        raise ValueError(f"need size >= 1 and 0 <= split fraction < 1, got {size} and {split_fraction}")
    scanned = scan_folder(folder, split_fraction)
    for note in scanned.notes:
        if say is not None:
            say(note)

    def maker(block: list[FolderImage]) -> Callable[[], Iterable[tuple[str, Entry]]]:
        return lambda: _folder_samples(block, size)

    units = []
    for start in range(0, len(scanned.images), UNIT_IMAGES):
        block = scanned.images[start : start + UNIT_IMAGES]
        content = [digest(i.name, *(i.captions or ("",)), str(i.label), i.split, i.path.read_bytes()) for i in block]
        recipe = digest("folder 1", READING, str(size), *content)
        units.append(Unit(f"{start // UNIT_IMAGES:05d}", recipe, maker(block)))
    header = {
        "name": display_name(Path(folder).resolve().name),
        "image_size": size,
        "encoding": "webp, lossy quality 95, method 4; centre-cropped RGB on white",
        "classes": scanned.classes,
        "label": "label",
        "left_out": {why: len(names) for why, names in scanned.left_out.items()},
        "licences": {"": {"licence": licence}},
    }
    return build_dataset(out, "images", units, header, progress)
