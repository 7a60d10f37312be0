"""Pictures of a folder or of tars straight to code shards, each view of each picture an example.

Pictures of a split are shuffled once, by the hash of their names, so that a shard mixes classes, and cut into units of
some 4,096 examples; `building` shares the units out among processes and keeps what is done. While a batch is encoded,
threads decode the next ones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmprime.io import ticks

from .building import build_dataset, units_noted
from .codes import PACK, CodeTokenizer, codes_header, encode_images, packed_entry
from .folders import display_name
from .images import several
from .keys import safe_key
from .picture_sources import PictureListing, StoredPicture, list_pictures
from .pictures import READING
from .shards import Entry, Unit, digest
from .views import Views

UNIT_EXAMPLES = 4096
BATCH = 64
IMAGENET = 1_281_167  # pictures of the training set
FIRST = 1000  # pictures after which the time for IMAGENET is told
_TOLD_EVERY = 30.0  # seconds


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded. workers: threads that decode; say: is given lines for the user."""

    views: Views
    split_fraction: float = 0.05
    licence: str = "unknown"
    workers: int = 2
    say: Callable[[str], None] = print


def encode_folder(
    folder: str | Path, tokenizer: CodeTokenizer, out: str | Path, how: Encoding, progress: bool = False
) -> dict[str, Any]:
    """Encode the pictures under `folder` (see `list_pictures`) into code shards; return the index.

    Raises ValueError for a picture that cannot be read, by its name, and as `list_pictures` does.
    """
    listed = list_pictures(folder, how.split_fraction)
    for note in listed.notes:
        how.say(note)
    blocks = _blocks(listed, max(1, UNIT_EXAMPLES // how.views.count))
    meter = _Meter(Path(out), {name: len(block) for name, block in blocks.items()}, how.say, progress)
    kept = ("picture codes 1", READING, tokenizer.fingerprint(), repr(how.views))
    with ThreadPoolExecutor(how.workers, "decode") as pool:
        units = [
            Unit(name, _recipe(block, *kept), partial(_encoded, name, block, tokenizer, how.views, pool, meter))
            for name, block in blocks.items()
        ]
        header = codes_header(
            tokenizer,
            listed.classes,
            name=display_name(Path(folder).resolve().name),
            image_size=how.views.side,
            views={"crop": how.views.crop, "mirrored": how.views.mirrored, "count": how.views.count},
            left_out={why: len(names) for why, names in listed.left_out.items()},
            licences={"": {"licence": how.licence}},
        )
        index = build_dataset(out, "codes", units, header)
    meter.close()
    return index


def _blocks(listed: PictureListing, size: int) -> dict[str, list[StoredPicture]]:
    """Pictures by the name of their unit."""
    blocks = {}
    for split in sorted({picture.split for picture in listed.pictures}):
        mine = [picture for picture in listed.pictures if picture.split == split]
        mine.sort(key=lambda picture: digest("order", picture.name))
        for number, start in enumerate(range(0, len(mine), size)):
            blocks[f"{split}-{number:05d}"] = mine[start : start + size]
    return blocks


def _recipe(block: Sequence[StoredPicture], *kept: str) -> str:
    return digest(*kept, *chain.from_iterable((p.name, str(p.size), str(p.label), *p.captions) for p in block))


def _encoded(
    name: str,
    block: Sequence[StoredPicture],
    tokenizer: CodeTokenizer,
    views: Views,
    pool: ThreadPoolExecutor,
    meter: _Meter,
) -> Iterator[tuple[str, Entry]]:
    """The entries of a unit, PACK examples each."""
    meter.begin(name)
    tokens, about, number = list[torch.Tensor](), list[dict[str, Any]](), 0
    for pictures, pixels in _decoded(block, views, pool):
        tokens.append(encode_images(torch.from_numpy(pixels), tokenizer))
        about += [_about(picture, view, views.count) for picture in pictures for view in range(views.count)]
        meter.done(len(pictures))
        while len(about) >= PACK or (about and meter.at_end(len(block))):
            codes = torch.cat(tokens)
            yield block[0].split, _entry(f"{name}_{number:06d}", codes[:PACK], about[:PACK], tokenizer)
            tokens, about, number = [codes[PACK:]], about[PACK:], number + 1


def _decoded(
    block: Sequence[StoredPicture], views: Views, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[StoredPicture], np.ndarray]]:
    """Batches of pictures with their views, decoded ahead: two batches wait while one is encoded."""
    size, waiting = max(1, BATCH // views.count), deque[tuple[Sequence[StoredPicture], list[Future[np.ndarray]]]]()
    for start in range(0, len(block), size):
        batch = block[start : start + size]
        waiting.append((batch, [pool.submit(_views_of, picture, views) for picture in batch]))
        if len(waiting) > 2:
            pictures, made = waiting.popleft()
            yield pictures, np.concatenate([each.result() for each in made])
    for pictures, made in waiting:
        yield pictures, np.concatenate([each.result() for each in made])


def _views_of(picture: StoredPicture, views: Views) -> np.ndarray:
    return views.of(picture.read(), picture.name)


def _about(picture: StoredPicture, view: int, count: int) -> dict[str, Any]:
    key = safe_key(picture.name) + (f"-{view}" if count > 1 else "")
    return {"key": key, "captions": picture.captions or ("",), "label": picture.label}


def _entry(key: str, codes: torch.Tensor, about: Sequence[dict[str, Any]], tokenizer: CodeTokenizer) -> Entry:
    more = several([list(each["captions"][1:]) for each in about])
    meta = {
        "keys": [each["key"] for each in about],
        "captions": [each["captions"][0] for each in about],
        "tags": [[] for _ in about],
        "vendors": ["" for _ in about],
        **({"more_captions": more} if more else {}),
    }
    return packed_entry(key, codes, np.array([each["label"] for each in about]), meta, tokenizer)


class _Meter:
    """Pictures encoded, by all processes, and the time that is left; units made before this start do not count."""

    def __init__(self, out: Path, sizes: dict[str, int], say: Callable[[str], None], progress: bool) -> None:
        self.out, self.sizes, self.say, self.total = out, sizes, say, sum(sizes.values())
        self.mine: set[str] = set()
        self.unit = self.encoded = 0
        self.bar = ticks("encoding", " pictures", self.total, progress)
        self.progress = progress
        self._began = self._told = time.monotonic()
        self._at_start: int | None = None

    def begin(self, name: str) -> None:
        """A unit begins in this process."""
        if self._at_start is None:
            self._at_start, self._began = self._noted(), time.monotonic()
            if self._at_start:
                self.say(f"{self._at_start:,} of {self.total:,} pictures are encoded already")
        self.mine.add(name)
        self.unit = 0

    def at_end(self, size: int) -> bool:
        """Whether all pictures of the unit have been counted."""
        return self.unit == size

    def done(self, count: int) -> None:
        """Pictures that this process has encoded."""
        self.unit, self.encoded = self.unit + count, self.encoded + count
        now = time.monotonic()
        passed = max(now - self._began, 1e-9)
        if self.encoded >= FIRST > self.encoded - count:
            rate = self.encoded / passed
            self.say(
                f"the first {self.encoded:,} pictures took {passed:.1f} s, {rate:.1f} a second in this process; "
                f"{IMAGENET:,} (ImageNet) would take it {_clock(IMAGENET / rate)}"
            )
        finished = self.encoded + self._noted(self.mine)
        self.bar.n = finished
        self.bar.refresh()
        if self.bar.disable and self.progress and now - self._told >= _TOLD_EVERY:
            self._told = now
            rate = (finished - (self._at_start or 0)) / passed
            left = _clock((self.total - finished) / rate)
            self.say(f"{finished:,} of {self.total:,} pictures, {rate:.1f} a second, {left} left")

    def close(self) -> None:
        self.bar.close()

    def _noted(self, without: Iterable[str] = ()) -> int:
        return sum(self.sizes.get(name, 0) for name in units_noted(self.out) - set(without))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
