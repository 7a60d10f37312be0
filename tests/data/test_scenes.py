"""Scenes and views: each drawing in its window, captions that are true, no caption of another split, seeds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmprime.data import ImageDataset
from mmprime.data.building import build_dataset
from mmprime.data.phrasings import RELATIONS
from mmprime.data.shards import Entry, Unit, canonical_json
from mmprime.data.sources.scenes import (
    CONVERSE,
    Scene,
    choose_scenes,
    compose,
    half_size,
    is_object,
    object_windows,
    prepare_scenes,
)
from mmprime.data.sources.views import may_mirror, move, prepare_views, turn_hue, turned_hues

COLOURS = {"red ball": (255, 0, 0), "green ball": (0, 255, 0), "cat": (9, 9, 9), "left arrow": (90, 90, 90)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two vendors draw squares of one colour in the upper left of white; blue ball is held out."""

    def make(vendor: str) -> list[tuple[str, Entry]]:
        made = []
        for caption, colour in [*COLOURS.items(), ("blue ball", (0, 0, 255)), ("dog", (1, 2, 3))]:
            image, buffer = Image.new("RGB", (16, 16), "white"), io.BytesIO()
            image.paste(colour, (0, 0, 8, 8))
            image.save(buffer, "PNG")
            split = "train" if caption in COLOURS else "val"
            about = {"caption": caption, "tags": ["t"], "vendor": vendor, "split": split}
            key = f"{vendor}_{caption.replace(' ', '-')}"
            made.append((split, Entry(key, {"png": buffer.getvalue(), "json": canonical_json(about)})))
        return made

    units = [Unit(vendor, vendor, lambda vendor=vendor: make(vendor), {"vendor": vendor}) for vendor in ("a", "b")]
    build_dataset(tmp_path / "data", "images", units, {"name": "squares", "image_size": 16})
    return tmp_path / "data"


def test_each_drawing_lies_where_the_caption_has_it() -> None:
    halves = torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (0, 100)])
    for relation in RELATIONS:
        scene = Scene(0, 1, relation)
        picture = compose(halves, [scene])[0].float()
        assert (picture == 255).float().mean() == 0.5
        mean = {}
        for value in (0, 100):
            rows, columns = (picture[0] == value).nonzero(as_tuple=True)
            mean[value] = (float(rows.float().mean()), float(columns.float().mean()))
        down, right = (two - one for one, two in zip(mean[0], mean[100]))
        wanted = {"left of": (0, 8), "right of": (0, -8), "above": (8, 0), "below": (-8, 0)}[relation]
        assert (down, right) == wanted, f"from the first, {relation} the second, to the second"
        assert torch.equal(compose(halves, [scene.converse()])[0].float(), picture), "the converse is the same picture"
        assert CONVERSE[CONVERSE[relation]] == relation
        assert torch.equal(object_windows(picture[None].byte(), [scene])[:, 0], halves)
    assert scene.caption(["cat", "dog"]) == "cat below dog"
    assert (
        half_size(torch.tensor([[[[0, 4], [8, 8]] * 2] * 3]).byte().repeat(1, 1, 1, 2)).flatten().tolist() == [5] * 12
    )
    with pytest.raises(ValueError, match="a multiple of 4 px, not 6 x 6"):
        half_size(torch.zeros(1, 3, 6, 6).byte())


def test_scenes_are_chosen_by_seed() -> None:
    captions = ["cat", "cat", "red ball", "left arrow", "flag: France", "a dog and a cat"]
    assert [is_object(caption) for caption in captions] == [True, True, True, False, False, False]
    scenes = choose_scenes(captions, 400, 3)
    assert scenes == choose_scenes(captions, 400, 3) != choose_scenes(captions, 400, 4)
    assert {frozenset((captions[s.first], captions[s.second])) for s in scenes} == {frozenset(("cat", "red ball"))}
    counts = [sum(s.relation == relation for s in scenes) for relation in RELATIONS]
    assert min(counts) > 60
    with pytest.raises(ValueError, match="a scene takes two drawings"):
        choose_scenes(["cat", "cat", "left arrow"], 1, 0)


def test_a_dataset_of_scenes(folder: Path, tmp_path: Path) -> None:
    index = prepare_scenes(folder, tmp_path / "out", 16, seed=1)
    assert index["splits"] == {"train": 16, "val": 8}
    again = prepare_scenes(folder, tmp_path / "again", 16, seed=1, with_drawings=True)
    made = {entry["file"]: entry["sha256"] for entry in again["shards"]}
    assert {entry["file"]: entry["sha256"] for entry in index["shards"]}.items() < made.items()
    assert again["splits"] == {"train": 24, "val": 12}
    data = ImageDataset.load(tmp_path / "out")
    assert {data.captions[n].split()[-1] for n, split in enumerate(data.splits) if split == "val"} <= {"ball", "dog"}
    known = {**COLOURS, "blue ball": (0, 0, 255), "dog": (1, 2, 3)}
    for caption, (other,), image, split in zip(data.captions, data.more_captions, data.images, data.splits):
        relation = next(name for name in RELATIONS if f" {name} " in caption)
        one, two = caption.split(f" {relation} ")
        assert other == f"{two} {CONVERSE[relation]} {one}"
        assert {one, two} <= ({"red ball", "green ball", "cat"} if split == "train" else {"blue ball", "dog"})
        for half, name in zip(object_windows(image[None], [Scene(0, 1, relation)])[:, 0], (one, two)):
            assert (half[:, 1, 1].int() - torch.tensor(known[name])).abs().max() < 12, "but for what WebP loses"


def test_views_keep_captions_true(folder: Path, tmp_path: Path) -> None:
    index = prepare_views(folder, tmp_path / "out", copies=6, shift=2, seed=5)
    assert index["splits"] == {"train": 8 * 7, "val": 4}
    data = ImageDataset.load(tmp_path / "out", "train")
    assert "blue ball" not in data.captions, "the caption of another split"
    assert {"red ball", "green ball", "pink ball", "cat", "left arrow"} <= set(data.captions)
    hues = {"red": 0, "orange": 30, "yellow": 52, "green": 120, "purple": 275, "pink": 330}
    mirrored = {"cat": 0, "left arrow": 0}
    for caption, image in zip(data.captions, data.images):
        drawing = image.permute(1, 2, 0).numpy()
        rows, columns = np.nonzero(drawing.min(-1) < 200)
        assert (rows.min() <= 2, rows.max() <= 9) == (True, True)
        if caption.endswith("ball"):
            hue = Image.fromarray(drawing).convert("HSV").getpixel((int(columns.mean()), int(rows.mean())))[0]
            off = abs(hue * 360 / 256 - hues[caption.split()[0]])
            assert min(off, 360 - off) < 6
        else:
            mirrored[caption] += columns.min() > 4
    assert mirrored["left arrow"] == 0 < mirrored["cat"] < 14
    again = prepare_views(folder, tmp_path / "again", copies=6, shift=2, seed=5)
    assert again["shards"] == index["shards"]


def test_what_may_be_mirrored_and_turned() -> None:
    sided = ("left arrow", "ID button", "flag: Peru", "two o’clock", "clockwise arrows", "keycap 5")
    assert not any(map(may_mirror, sided))
    assert may_mirror("cat")
    assert may_mirror("bus")
    assert dict(turned_hues("red apple"))["blue apple"] == 215
    assert dict(turned_hues("blue book"))["red book"] == 360 - 215
    for caption in ("cat", "orange", "woman: red hair", "red face", "black cat", "red and blue ball"):
        assert turned_hues(caption) == []
    pure = np.zeros((2, 2, 3), np.uint8)
    pure[0, :, 0], pure[1] = 255, 80
    turned = turn_hue(pure, 120)
    assert (turned[0].argmax(-1) == 1).all()
    assert (turned[1] == 80).all()
    moved = move(pure, 1, -1)
    assert (moved[0] == 255).all()
    assert (moved[1, 0] == pure[0, 1]).all()
    assert (moved[1, 1] == 255).all()
