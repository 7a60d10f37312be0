"""Composed scenes: two drawings, each at half size on white, beside or above each other, with a caption that is true.

    cat left of dog      the first in the left half, the second in the right one, both half-way up
    cat above dog        the first in the upper half, the second in the lower one, both half-way across

The caption says the same from the second drawing's side as well (`dog right of cat`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmprime.engine import generator_of

from ..building import build_dataset
from ..images import ImageDataset
from ..keys import safe_key
from ..phrasings import RELATIONS
from ..shards import Entry, Unit, canonical_json, digest, read_index, read_shard
from .emoji import encode_webp

OFFSETS = {  # of the first and the second drawing: rows and columns in quarters of the side
    "left of": ((1, 0), (1, 2)),
    "right of": ((1, 2), (1, 0)),
    "above": ((0, 1), (2, 1)),
    "below": ((2, 1), (0, 1)),
}
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_LONGEST = 3  # words of the caption of an object
_NO_OBJECT = re.compile(r"[:(“]|\b(left|right|above|below|of|and|up|down|no)\b", re.I)


@dataclass(frozen=True)
class Scene:
    """Two drawings by their numbers, and how the first lies to the second."""

    first: int
    second: int
    relation: str

    def caption(self, captions: Sequence[str]) -> str:
        """What is drawn, from the first drawing's side."""
        return f"{captions[self.first]} {self.relation} {captions[self.second]}"

    def converse(self) -> Scene:
        """The same picture from the second drawing's side."""
        return Scene(self.second, self.first, CONVERSE[self.relation])


def is_object(caption: str) -> bool:
    """Whether a caption names one thing in a few words, so that a relation to it can be said."""
    return bool(caption.strip()) and len(caption.split()) <= _LONGEST and not _NO_OBJECT.search(caption)


def choose_scenes(captions: Sequence[str], count: int, *seed: int | str) -> list[Scene]:
    """Scenes of drawings with these captions, drawn by seed: two of different captions, each relation alike often.

    Raises ValueError when there are fewer than two captions that name an object.
    """
    objects = [number for number, caption in enumerate(captions) if is_object(caption)]
    if len({captions[number] for number in objects}) < 2:
        raise ValueError("a scene takes two drawings whose captions name different objects, and there are none")
    generator = generator_of(int(digest(*map(str, seed))[:16], 16))
    scenes: list[Scene] = []
    while len(scenes) < count:
        one, two = (objects[index] for index in torch.randint(len(objects), (2,), generator=generator).tolist())
        if captions[one] != captions[two]:
            relation = RELATIONS[int(torch.randint(len(RELATIONS), (), generator=generator))]
            scenes.append(Scene(one, two, relation))
    return scenes


def half_size(images: Tensor) -> Tensor:
    """uint8 (n, 3, S, S) -> (n, 3, S/2, S/2), means of 2 × 2. Raises ValueError when S is no multiple of 4."""
    if images.shape[-1] % 4 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"scenes take squares with a multiple of 4 px, not {images.shape[-1]} x {images.shape[-2]}")
    return functional.avg_pool2d(images.float(), 2).round().byte()


def compose(halves: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Scenes (m, 3, S, S) of drawings at half size (n, 3, S/2, S/2), uint8."""
    side = halves.shape[-1]
    canvas = torch.full((len(scenes), 3, 2 * side, 2 * side), 255, dtype=torch.uint8)
    for picture, scene in zip(canvas, scenes):
        for number, corner in zip((scene.first, scene.second), OFFSETS[scene.relation]):
            _window(picture, corner)[:] = halves[number]
    return canvas


def object_windows(images: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Where the drawings of scenes lie: uint8 (m, 3, S, S) -> (2, m, 3, S/2, S/2), of the first, of the second."""
    parts = [[_window(image, corner) for corner in OFFSETS[scene.relation]] for image, scene in zip(images, scenes)]
    return torch.stack([torch.stack(part) for part in zip(*parts)])


def _window(image: Tensor, corner: tuple[int, int]) -> Tensor:
    quarter = image.shape[-1] // 4
    top, left = (quarter * offset for offset in corner)
    return image[..., top : top + 2 * quarter, left : left + 2 * quarter]


def prepare_scenes(
    images: str | Path, out: str | Path, count: int, seed: int = 0, with_drawings: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Compose scenes of an image dataset's drawings, both of one vendor and one split, into image shards; return the
    index. count: of the largest split; others get as many a drawing. with_drawings: the drawings too.

    Raises ValueError for a folder that is no image dataset, of pictures that are no squares of a multiple of 4 px, or
    whose captions name no two objects.
    """
    index, data = read_index(images, "images"), ImageDataset.load(images)
    halves, share = half_size(data.images), count / max(index["splits"].values())
    content = digest(*(entry["sha256"] for entry in index["shards"]), str(count), str(seed))

    def maker(vendor: str) -> Callable[[], Iterable[tuple[str, Entry]]]:
        return lambda: _samples(data, halves, vendor, share, seed)

    units = [
        Unit(f"scenes-{safe_key(vendor)}", digest("scenes 1", content, vendor), maker(vendor), {"vendor": vendor})
        for vendor in dict.fromkeys(data.vendors)
    ]
    units += copied_units(images, index) if with_drawings else []
    return build_dataset(out, "images", units, made_header(index, "scenes of"), progress)


def made_header(index: dict[str, Any], what: str) -> dict[str, Any]:
    """The header of a dataset that is made of another's pictures: its licences, classes and sizes."""
    kept = {name: index[name] for name in index if name not in ("shards", "splits", "format", "kind")}
    return kept | {"name": f"{what} {index.get('name', 'images')}"}


def webp_of(picture: Tensor) -> bytes:
    """uint8 (3, H, W) as WebP."""
    from PIL import Image

    return encode_webp(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()))


def copied_units(images: str | Path, index: dict[str, Any]) -> list[Unit]:
    """The shards of an image dataset as they are."""
    units: dict[str, list[dict[str, Any]]] = {}
    for entry in index["shards"]:
        units.setdefault(entry.get("unit", entry["file"].split(".")[0]), []).append(entry)

    def maker(entries: list[dict[str, Any]]) -> Callable[[], Iterable[tuple[str, Entry]]]:
        return lambda: ((e["split"], Entry(key, files)) for e in entries for key, files in read_shard(images, e))

    return [
        Unit(
            name,
            digest("copy 1", *(entry["sha256"] for entry in entries)),
            maker(entries),
            {key: entries[0][key] for key in ("vendor",) if key in entries[0]},
        )
        for name, entries in units.items()
    ]


def _samples(data: ImageDataset, halves: Tensor, vendor: str, share: float, seed: int) -> Iterator[tuple[str, Entry]]:
    for split in dict.fromkeys(data.splits):
        numbers = [n for n, (v, s) in enumerate(zip(data.vendors, data.splits)) if (v, s) == (vendor, split)]
        captions = [data.captions[number] for number in numbers]
        wanted = round(share * len(numbers))
        if len({caption for caption in captions if is_object(caption)}) < 2 or not wanted:
            continue
        scenes = choose_scenes(captions, wanted, "prepare", seed, vendor, split)
        for number, (scene, picture) in enumerate(zip(scenes, compose(halves[numbers], scenes))):
            about = {
                "caption": scene.caption(captions),
                "more_captions": [scene.converse().caption(captions)],
                "tags": [],
                "vendor": vendor,
                "split": split,
            }
            key = safe_key(f"scene_{vendor}_{split}_{number:05d}")
            yield split, Entry(key, {"webp": webp_of(picture), "json": canonical_json(about)})
