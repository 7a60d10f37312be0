"""The emoji set: matching and rendering in miniature, and the set that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datafixtures import folder_bytes, write_emoji_packages

from mmprime.data import ImageDataset, load_documents, read_index
from mmprime.data.sources.emoji import held_out_caption, prepare_emoji
from mmprime.data.sources.emoji_icons import EmojiSource

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def test_miniature(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    iconify, emojibase = write_emoji_packages(tmp_path)
    vendors = ("twemoji", "noto", "fxemoji")
    index = prepare_emoji(iconify, emojibase, tmp_path / "out", 16, vendors)
    data = ImageDataset.load(tmp_path / "out")
    found = {(v, c): i for i, (v, c) in enumerate(zip(data.vendors, data.captions))}
    # noto draws "mirrored red" exactly as "blue half": left out; skin tones and letters: left out
    assert set(found) == {
        *(("twemoji", c) for c in ("red half", "blue half", "mirrored red")),
        *(("noto", c) for c in ("red half", "blue half")),
        ("fxemoji", "red half"),
    }
    assert index["classes"] == ["smileys", "people"]
    assert data.labels is not None
    assert int(data.labels[found["twemoji", "blue half"]]) == 1
    red, mirrored = (data.images[found["twemoji", c]] for c in ("red half", "mirrored red"))
    assert red[:, 8, 2].tolist() == [255, 0, 0]
    assert red[:, 8, 13].tolist() == [255, 255, 255]
    assert torch.equal(mirrored, red.flip(-1))
    assert ImageDataset.load(tmp_path / "out", "val_vendor").vendors == ["fxemoji"]
    before = folder_bytes(tmp_path / "out")
    prepare_emoji(iconify, emojibase, tmp_path / "out", 16, vendors)
    assert folder_bytes(tmp_path / "out") == before


def test_missing_packages_name_the_command(tmp_path: Path) -> None:
    iconify, emojibase = write_emoji_packages(tmp_path)
    with pytest.raises(ValueError, match=r"@iconify/json.*npm pack @iconify/json"):
        EmojiSource(tmp_path, emojibase)
    with pytest.raises(ValueError, match=r"emojibase-data.*npm pack emojibase-data"):
        EmojiSource(iconify, tmp_path)


def test_shipped_emoji() -> None:
    index = read_index(ASSETS / "emoji", "images")
    data = ImageDataset.load(ASSETS / "emoji")  # verifies sizes, hashes and counts of all shards
    assert len(data) == sum(index["splits"].values()) == sum(e["examples"] for e in index["shards"])
    assert data.size == (64, 64)
    assert len(set(data.keys)) == len(data)
    by_split = {s: {c for c, t in zip(data.captions, data.splits) if t == s} for s in index["splits"]}
    assert by_split["val_caption"]
    assert not by_split["val_caption"] & by_split["train"]
    assert all(held_out_caption(c) for c in by_split["val_caption"])
    vendors = {s: {v for v, t in zip(data.vendors, data.splits) if t == s} for s in index["splits"]}
    assert vendors["val_vendor"] == {"fxemoji"}
    assert "fxemoji" not in vendors["train"] | vendors["val_caption"]
    assert set(index["licences"]) == set(data.vendors)
    assert not any("-SA" in licence["licence"] for licence in index["licences"].values())
    assert not any("skin tone" in caption for caption in data.captions)
    assert sum(e["bytes"] for e in index["shards"]) <= 11_000_000


def test_shipped_speeches() -> None:
    train, val = (load_documents(ASSETS / "sotu", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (221, 12)
    assert not set(train) & set(val)
    assert sum(p.stat().st_size for p in (ASSETS / "sotu").iterdir()) <= 3_000_000
