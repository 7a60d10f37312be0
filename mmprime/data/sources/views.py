"""Further views of captioned drawings whose captions stay true: mirrored, moved, and of another hue with its word.

Mirrored is what has no side, no letters, digits or name; hues turn where one word of the caption names one, and the
word with them, unless that makes a caption that only other splits have. One split grows; the others are copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmprime.engine import generator_of
from mmprime.io import parse_json

from ..building import build_dataset
from ..images import ImageDataset, captions_of, decode_image, known_image
from ..keys import safe_key
from ..shards import Entry, Unit, canonical_json, digest, field_of, read_index, read_shard, split_shards
from .emoji import encode_webp
from .scenes import copied_units, made_header

HUES = {"red": 0, "orange": 30, "yellow": 52, "green": 120, "blue": 215, "purple": 275, "pink": 330}  # degrees
_SIDED = re.compile(
    r"[:“\dA-Z]|\b(left|right|east|west)|clock|thirty|\b(button|letters?|input|numbers|symbols?|sign|mark|arrow|"
    r"moon|dollar|yen|euro|pound|banknote|calendar|watch|points|place|zzz|receipt|card|currency|medal|mahjong|dna)\b"
)
_LIVING = re.compile(r"[:“]|\b(face|person|man|woman|men|women|people|hair|hands?|skin|flag|mahjong)\b")


def may_mirror(caption: str) -> bool:
    """Whether a drawing keeps its caption in a mirror."""
    return not _SIDED.search(caption)


def turned_hues(caption: str) -> list[tuple[str, int]]:
    """The captions of a drawing in other hues, each with the degrees to turn by; none where no one word names a hue."""
    words = caption.split(" ")
    named = [word for word in words if word in HUES]
    if len(named) != 1 or len(words) < 2 or _LIVING.search(caption):
        return []
    number = words.index(named[0])
    return [
        (" ".join([*words[:number], hue, *words[number + 1 :]]), (degrees - HUES[named[0]]) % 360)
        for hue, degrees in HUES.items()
        if hue != named[0]
    ]


def turn_hue(image: np.ndarray, degrees: int) -> np.ndarray:
    """uint8 (H, W, 3) with every hue turned; greys stay."""
    from PIL import Image

    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(int) + round(degrees * 256 / 360)) % 256
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def move(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """uint8 (H, W, 3) moved by so many pixels, white where it came from."""
    height, width = image.shape[:2]
    moved = np.full_like(image, 255)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved


def view_of(
    image: np.ndarray, captions: list[str], shift: int, taken: set[str], generator: torch.Generator
) -> tuple[np.ndarray, list[str]]:
    """One view of a drawing and its captions: half of the time in another hue and mirrored, where that may be, moved by
    up to `shift` pixels each way."""

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    hues = [each for each in turned_hues(captions[0]) if each[0] not in taken] if len(captions) == 1 else []
    recolour, mirror = pick(2), pick(2)
    if hues and recolour:
        caption, degrees = hues[pick(len(hues))]
        image, captions = turn_hue(image, degrees), [caption]
    if mirror and all(map(may_mirror, captions)):
        image = image[:, ::-1]
    down, right = (pick(2 * shift + 1) - shift for _ in range(2))
    return move(image, down, right), captions


def prepare_views(
    images: str | Path, out: str | Path, copies: int, shift: int = 3, seed: int = 0, split: str = "train"
) -> dict[str, Any]:
    """An image dataset with so many further views of each drawing of one split; return the index.

    Raises ValueError for a folder that is no image dataset, a split it does not have, an unreadable drawing.
    """
    index = read_index(images, "images")
    entries = split_shards(index, split)
    others = [name for name in index["splits"] if name != split]
    taken = {caption for name in others for caption in ImageDataset.load(images, name).captions}
    taken -= set(ImageDataset.load(images, split).captions)
    settings = digest(str(copies), str(shift), str(seed), *sorted(taken))

    def maker(entry: dict[str, Any]) -> Callable[[], Iterable[tuple[str, Entry]]]:
        return lambda: _samples(images, entry, copies, shift, taken, seed)

    units = [
        Unit(
            f"views-{entry['file'].split('.')[0]}",
            digest("views 1", settings, entry["sha256"]),
            maker(entry),
            {key: entry[key] for key in ("vendor",) if key in entry},
        )
        for entry in entries
    ]
    return build_dataset(out, "images", [*copied_units(images, index), *units], made_header(index, "views of"), True)


def _samples(
    images: str | Path, entry: dict[str, Any], copies: int, shift: int, taken: set[str], seed: int
) -> Iterator[tuple[str, Entry]]:
    from PIL import Image

    for key, files in read_shard(images, entry):
        where = f"{entry['file']}: {key}"
        record = parse_json(field_of(files, "json", where), where)
        image, captions = decode_image(known_image(files, where), where), captions_of(record) or [""]
        for number in range(copies):
            generator = generator_of(int(digest("view", str(seed), key, str(number))[:16], 16))
            view, said = view_of(image, captions, shift, taken, generator)
            about = {**record, "caption": said[0]} | ({"tags": []} if said != captions else {})
            webp = encode_webp(Image.fromarray(np.ascontiguousarray(view)))
            yield entry["split"], Entry(safe_key(f"{key}-view{number}"), {"webp": webp, "json": canonical_json(about)})
