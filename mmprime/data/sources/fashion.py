"""Fashion-MNIST (arXiv 1708.07747): 70,000 grey pictures of 28 px in ten classes, from its four idx files.

idx: two zero bytes, type 8 (uint8), number of axes, the axes as big-endian uint32, the values in C order
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..building import build_dataset
from ..images import UNIT_IMAGES
from ..shards import Entry, Unit, canonical_json, digest

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FILES = {"train": "train", "val": "t10k"}
_UINT8 = 8


def read_idx(file: Path) -> np.ndarray:
    """The uint8 array of a gzipped idx file. Raises ValueError naming the file and what is wrong with it."""
    try:
        data = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is not a readable gzip file: {error}") from error
    start = 4 + 4 * data[3] if len(data) > 3 else 4
    if len(data) < start or data[:3] != bytes([0, 0, _UINT8]):
        raise ValueError(f"{file} is no idx file of uint8: it starts with {data[:4].hex()}")
    shape = tuple(int(axis) for axis in np.frombuffer(data[4:start], ">u4"))
    if len(data) - start != math.prod(shape):
        raise ValueError(f"{file} should hold {shape} values, it holds {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _samples(images: np.ndarray, labels: np.ndarray, split: str, start: int) -> Iterator[tuple[str, Entry]]:
    from PIL import Image

    for number, (image, label) in enumerate(zip(images, labels.tolist()), start):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        about = {"caption": CLASSES[label], "tags": [], "vendor": "", "label": label, "split": split}
        yield split, Entry(f"{split}_{number:05d}", {"png": buffer.getvalue(), "json": canonical_json(about)})


def prepare_fashion(package: str | Path, out: str | Path, progress: bool = False) -> dict[str, Any]:
    """Turn the idx files in `package` into image shards, "val" being the published test set; return the index.

    Raises ValueError for a file that is missing or damaged, or pictures and labels that do not fit.
    """

    def maker(*arguments: Any) -> Callable[[], Iterable[tuple[str, Entry]]]:
        return lambda: _samples(*arguments)

    units = []
    for split, stem in FILES.items():
        images = read_idx(Path(package) / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(Path(package) / f"{stem}-labels-idx1-ubyte.gz")
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max() >= len(CLASSES):
            raise ValueError(
                f"{package}: {stem} has pictures {images.shape} and labels {labels.shape} up to {labels.max()}"
            )
        for start in range(0, len(images), UNIT_IMAGES):
            part = images[start : start + UNIT_IMAGES], labels[start : start + UNIT_IMAGES]
            recipe = digest("fashion 1", split, str(start), *(array.tobytes() for array in part))
            units.append(Unit(f"{split}-{start // UNIT_IMAGES:05d}", recipe, maker(*part, split, start)))
    header = {
        "name": "fashion-mnist",
        "image_size": int(images.shape[1]),
        "encoding": "png, grey",
        "classes": list(CLASSES),
        "label": "label",
        "sources": {"fashion-mnist": "Debian dataset-fashion-mnist"},
        "licences": {"": {"name": "Fashion-MNIST", "author": "Zalando SE", "licence": "MIT"}},
    }
    return build_dataset(out, "images", units, header, progress)
