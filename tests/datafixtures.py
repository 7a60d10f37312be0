"""Tiny synthetic sources for the data tests."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmprime.data.building import build_dataset
from mmprime.data.codes import CodeTokenizer, ImageDataset, _packed, codes_header
from mmprime.data.shards import Unit


def write_pictures(folder: Path, count: int = 6, size: tuple[int, int] = (24, 16)) -> Path:
    """Captioned pictures with dots and blanks in their names, each of one flat colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        array = np.full((size[1], size[0], 3), 40 * i, np.uint8)
        Image.fromarray(array).save(folder / f"pic v1.{i}.png")
        (folder / f"pic v1.{i}.txt").write_text(f"caption {i}\n", encoding="utf-8")
    return folder


def write_emoji_packages(folder: Path) -> tuple[Path, Path]:
    """A miniature of the two emoji packages: two vendors, three captions, one drawing that repeats another."""
    iconify, emojibase = folder / "iconify", folder / "emojibase"
    for inside in (iconify / "json", emojibase / "en", emojibase / "meta"):
        inside.mkdir(parents=True)

    def body(colour: str, x: int = 0) -> str:
        return f'<rect x="{x}" width="8" height="16" fill="{colour}"/>'

    emojis = [("1F600", "red half", 0), ("1F601-FE0F", "blue half", 1), ("1F602", "mirrored red", 1)]
    entries = [{"hexcode": h, "label": c, "tags": ["half"], "group": g} for h, c, g in emojis]
    skins = [
        {"hexcode": "1F44B-1F3FB", "label": "hand: light skin tone", "group": 1},
        {"hexcode": "1F1E6", "label": "A"},
    ]
    (emojibase / "en/data.json").write_text(json.dumps(entries + skins))
    (emojibase / "meta/groups.json").write_text(json.dumps({"groups": {"0": "smileys", "1": "people"}}))
    icons = {
        "red-half": {"body": body("#f00")},
        "blue-half": {"body": body("#00f")},
        "again": {"body": body("#00f", 0) + " "},
    }
    named = {
        "aliases": {"mirrored-red": {"parent": "red-half", "hFlip": True}},
        "width": 16,
        "height": 16,
        "icons": icons,
    }
    chars = {"1F600": "red-half", "1F601": "blue-half", "1F602": "mirrored-red", "1F44B-1F3FB": "again"}
    flat = {**named, "chars": {**chars, "1F602": "again"}}
    for vendor, content in (
        ("twemoji", {**named, "chars": chars}),
        ("noto", flat),
        ("fluent-emoji-flat", {**named, "chars": chars}),
        ("fxemoji", {**named, "icons": {"redhalf": icons["red-half"], "nothing": icons["blue-half"]}, "aliases": {}}),
    ):
        (iconify / f"json/{vendor}.json").write_text(json.dumps(content))
    about = {"name": "n", "author": {"name": "a", "url": "u"}, "license": {"spdx": "MIT", "url": "l"}}
    (iconify / "collections.json").write_text(json.dumps(dict.fromkeys(("twemoji", "noto", "fxemoji"), about)))
    return iconify, emojibase


class MeanTokenizer:
    """Codes are the mean brightness of 4 × 4 patches in `num_codes` steps."""

    def __init__(self, num_codes: int = 16, grid: tuple[int, int] = (4, 4)) -> None:
        self.num_codes, self.grid, self.calls = num_codes, grid, 0
        self.radices: tuple[int, ...] = ()

    def encode(self, images: Tensor) -> Tensor:
        self.calls += 1
        patches = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
        return (patches * (self.num_codes - 1)).round().long()

    def encode_digits(self, images: Tensor) -> Tensor:
        return self.encode(images)[..., None]

    def fingerprint(self) -> str:
        return f"mean-{self.num_codes}"


def folder_bytes(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file of a folder."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


def write_codes(images: ImageDataset, tokenizer: CodeTokenizer, out: Path) -> None:
    """Images held in memory as packed codes, a shard a split."""
    units = []
    for split in dict.fromkeys(images.splits):
        part = images.select([i for i, other in enumerate(images.splits) if other == split])
        units.append(Unit(split, split, partial(_packed, part, tokenizer, split)))
    build_dataset(out, "codes", units, codes_header(tokenizer, images.classes))
