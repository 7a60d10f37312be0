"""Captioned images: reading image shards into memory, and making them from a folder of pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pictures import READING, read_picture, read_square
from .shards import (
    Sample,
    Unit,
    build_dataset,
    canonical_json,
    digest,
    field_of,
    read_index,
    read_shard,
    safe_key,
    split_shards,
)

EXTENSIONS = ("webp", "png", "jpg", "jpeg")
FOLDER_EXTENSIONS = (*EXTENSIONS, "bmp", "gif", "tif", "tiff")
UNIT_IMAGES = 1000


def known_image(files: dict[str, bytes], where: str) -> bytes:
    """The image bytes of a sample, whatever their format. Raises ValueError naming `where` if there are none."""
    for extension in EXTENSIONS:
        if extension in files:
            return files[extension]
    raise ValueError(f"{where} holds no image (.{', .'.join(EXTENSIONS)}), only {sorted(files)}")


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Image bytes to uint8 (H, W, 3). Raises ValueError naming `where` if they cannot be read."""
    return np.asarray(read_picture(data, where))


def decode_record(data: bytes, where: str) -> dict[str, Any]:
    """The JSON of a sample. Raises ValueError naming `where` if it is not an object."""
    try:
        record = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} has unreadable JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} has a JSON {type(record).__name__}, an object is needed")
    return record


@dataclass
class ImageDataset:
    """Captioned images in memory.

    images: uint8 (n, 3, H, W); labels: int64 (n,) with -1 where unlabelled, or None if nothing is labelled;
    captions, tags, vendors, keys, splits: one entry an image; classes: names of the labels (may be empty).
    """

    images: Tensor
    captions: list[str]
    tags: list[list[str]]
    vendors: list[str]
    labels: Tensor | None
    keys: list[str]
    splits: list[str]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every image."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    def select(self, positions: Sequence[int]) -> ImageDataset:
        """The images at these positions, in this order."""
        pick = list(positions)
        return ImageDataset(
            self.images[pick],
            [self.captions[i] for i in pick],
            [self.tags[i] for i in pick],
            [self.vendors[i] for i in pick],
            None if self.labels is None else self.labels[pick],
            [self.keys[i] for i in pick],
            [self.splits[i] for i in pick],
            self.classes,
        )

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
                records.append(decode_record(field_of(files, "json", where), where))
                keys.append(key)
                splits.append(entry["split"])
        labels = [int(record.get(index.get("label", "label"), -1)) for record in records]
        return cls(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            [str(record.get("caption", "")) for record in records],
            [list(record.get("tags", ())) for record in records],
            [str(record.get("vendor", "")) for record in records],
            torch.tensor(labels) if any(label >= 0 for label in labels) else None,
            keys,
            splits,
            list(index.get("classes", ())),
        )


# ------------------------------------------------------------------------------------------ folders of pictures


@dataclass(frozen=True)
class FolderImage:
    """A picture of a folder: where it lies, its caption, its class (-1: none), its split."""

    path: Path
    name: str
    caption: str
    label: int
    split: str


def _pictures(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.suffix[1:].lower() in FOLDER_EXTENSIONS)
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _metadata(folder: Path) -> dict[str, str] | None:
    file = folder / "metadata.jsonl"
    if not file.is_file():
        return None
    captions: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions[str(row["file_name"])] = str(row["text"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f'{file}:{number}: need {{"file_name": ..., "text": ...}}, got {line[:80]!r}') from error
    return captions


def chosen(name: str, fraction: float) -> bool:
    """Whether `name` falls into a held-out `fraction`, decided by its hash alone."""
    return int(digest(name)[:8], 16) < fraction * 16**8


def scan_folder(folder: str | Path, split_fraction: float = 0.05) -> tuple[list[FolderImage], list[str]]:
    """List a folder's pictures with captions; return them and the class names.

    Captions come from `metadata.jsonl`, else from NAME.txt beside each picture, else from class folders (caption =
    folder name, label = its rank). A hash of the file name puts `split_fraction` of them into "val".

    Raises ValueError when there are no pictures, or some have neither caption nor class.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder} is no folder")
    pictures = _pictures(root)
    if not pictures:
        raise ValueError(f"{folder} holds no pictures ({', '.join(FOLDER_EXTENSIONS)})")
    written = _metadata(root)
    if written is not None and (lost := sorted(set(written) - {p.relative_to(root).as_posix() for p in pictures})):
        raise ValueError(f"metadata.jsonl names {len(lost)} files that are not in {folder}, the first: {lost[0]!r}")
    classes = sorted({p.relative_to(root).parts[0] for p in pictures if p.parent != root})
    found: list[FolderImage] = []
    for picture in pictures:
        name = picture.relative_to(root).as_posix()
        label = classes.index(name.split("/")[0]) if "/" in name else -1
        beside = picture.with_suffix(".txt")
        if written is not None:
            if name not in written:
                continue
            caption = written[name]
        elif beside.is_file():
            caption = " ".join(beside.read_text(encoding="utf-8").split())
        elif label >= 0:
            caption = classes[label].replace("_", " ")
        else:
            raise ValueError(
                f"{picture} has no caption: write {beside.name} beside it, add a line to metadata.jsonl, "
                "or put it into a class folder"
            )
        found.append(FolderImage(picture, name, caption, label, "val" if chosen(name, split_fraction) else "train"))
    if not found:
        raise ValueError(f"{folder}/metadata.jsonl names none of the {len(pictures)} pictures")
    return found, classes


def _folder_samples(images: list[FolderImage], size: int) -> Iterator[tuple[str, Sample]]:
    for item in images:
        buffer = io.BytesIO()
        read_square(item.path, size).save(buffer, "WEBP", quality=95, method=4)
        about = {"caption": item.caption, "tags": [], "vendor": "", "label": item.label, "split": item.split}
        yield item.split, Sample(safe_key(item.name), {"webp": buffer.getvalue(), "json": canonical_json(about)})


def prepare_folder(
    folder: str | Path,
    out: str | Path,
    size: int = 64,
    split_fraction: float = 0.05,
    licence: str = "unknown",
    progress: bool = False,
) -> dict[str, Any]:
    """Turn a folder of pictures (see `scan_folder`) into image shards of `size` px; return the index.

    Raises ValueError as `scan_folder` does, and for a picture that cannot be read, by its name.
    """
    if size < 1 or not 0 <= split_fraction < 1:
        raise ValueError(f"need size >= 1 and 0 <= split fraction < 1, got {size} and {split_fraction}")
    images, classes = scan_folder(folder, split_fraction)

    def maker(block: list[FolderImage]) -> Callable[[], Iterable[tuple[str, Sample]]]:
        return lambda: _folder_samples(block, size)

    units = []
    for start in range(0, len(images), UNIT_IMAGES):
        block = images[start : start + UNIT_IMAGES]
        content = [digest(i.name, i.caption, str(i.label), i.split, i.path.read_bytes()) for i in block]
        units.append(
            Unit(f"{start // UNIT_IMAGES:05d}", digest("folder 1", READING, str(size), *content), maker(block))
        )
    header = {
        "name": Path(folder).resolve().name,
        "image_size": size,
        "encoding": "webp, lossy quality 95, method 4; centre-cropped RGB on white",
        "classes": classes,
        "label": "label",
        "licences": {"": {"licence": licence}},
    }
    return build_dataset(out, "images", units, header, progress)
