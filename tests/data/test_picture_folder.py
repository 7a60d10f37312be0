"""What folders and caption files say about pictures: splits, classes, captions; long and odd names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from datafixtures import MeanTokenizer
from PIL import Image

from mmprime.data import CodeDataset, ImageDataset, encode_dataset, prepare_folder, training_texts
from mmprime.data.keys import safe_key
from mmprime.data.picture_folder import PictureFolder, held_out, scan_folder
from mmprime.data.shards import digest, read_index


def pictures(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(root / name, format="PNG")
    return root


def classed(found: PictureFolder) -> dict[str, tuple[str, str | None]]:
    """Split and class of each picture."""
    return {i.name: (i.split, found.classes[i.label] if i.label >= 0 else None) for i in found.images}


def captions(found: PictureFolder) -> dict[str, tuple[str, ...]]:
    return {image.name: image.captions for image in found.images}


# ---------------------------------------------------------------------------------------------- splits and classes


@pytest.mark.parametrize("above", ["", "data/"])
@pytest.mark.parametrize(("train", "val", "test"), [("train", "val", "test"), ("Training", "validation", "EVAL")])
def test_split_folders_are_splits_and_not_classes(tmp_path: Path, above: str, train: str, val: str, test: str) -> None:
    names = [f"{above}{split}/{kind}/1.png" for split in (train, val, test) for kind in ("cat", "dog")]
    found = scan_folder(pictures(tmp_path, *names), split_fraction=0.9)
    expected = [(split, kind) for split in ("train", "val", "test") for kind in ("cat", "dog")]
    assert classed(found) == dict(zip(names, expected))
    assert found.classes == ["cat", "dog"]
    assert captions(found)[names[1]] == ("dog",)


def test_a_fraction_is_held_out_of_train_where_no_folder_is_val(tmp_path: Path) -> None:
    found = scan_folder(pictures(tmp_path, *(f"{s}/c/{i}.png" for s in ("train", "test") for i in range(9))), 0.01)
    splits = [image.split for image in found.images]
    assert [splits.count(name) for name in ("train", "val", "test")] == [8, 1, 9]
    assert "splits as the folders are called, val held out of train: train 8, val 1, test 9" in found.notes


def test_a_class_called_train_beside_others_is_a_class(tmp_path: Path) -> None:
    found = scan_folder(pictures(tmp_path, "bus/1.png", "train/1.png"))
    assert found.classes == ["bus", "train"]
    mixed = scan_folder(pictures(tmp_path, "bus/1.png", "train/1.png", "val/1.png"))
    assert mixed.classes == ["bus", "train", "val"]
    assert any("taken for classes" in note for note in mixed.notes)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["train/images/a.png", "val/Images/b.png"], [("train", "images"), ("val", "Images")]),  # two names: classes
        (["train/images/a.png", "val/images/b.png"], [("train", None), ("val", None)]),
        (["train/images/cat/a.png", "val/images/dog/b.png"], [("train", "cat"), ("val", "dog")]),
        (["images/a.png", "images/b.png"], [("train", None), ("train", None)]),
        (["images/a.png", "cats/b.png"], [("train", "images"), ("train", "cats")]),
        (["train/images/a.png", "val/b.png"], [("train", "images"), ("val", None)]),
        (["train/imagery/a.png", "val/imagery/b.png"], [("train", "imagery"), ("val", "imagery")]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
def test_a_folder_called_images_that_is_the_only_one_is_no_class(
    tmp_path: Path, names: list[str], places: list[tuple[str, str | None]]
) -> None:
    found = scan_folder(pictures(tmp_path, *names), split_fraction=0)
    assert classed(found) == dict(zip(names, places))


def test_split_folders_of_captioned_pictures(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train/x.png", "test/x.png")
    rows = [{"file_name": "train/x.png", "text": "a"}, {"file_name": "test/x.png", "text": "b"}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = scan_folder(root)
    assert classed(found) == {"test/x.png": ("test", None), "train/x.png": ("train", None)}
    assert captions(found) == {"test/x.png": ("b",), "train/x.png": ("a",)}


def test_numeric_classes_are_in_numeric_order_and_reach_the_codes(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p", *(f"{k}/a.png" for k in range(12)))
    (root / "10/more").symlink_to(pictures(tmp_path / "elsewhere", "b.png"))
    found = scan_folder(root)
    assert found.classes == [str(k) for k in range(12)]
    assert {image.name: image.label for image in found.images}["10/more/b.png"] == 10
    prepare_folder(root, tmp_path / "images", size=16)
    encode_dataset(tmp_path / "images", MeanTokenizer(), tmp_path / "codes")
    assert CodeDataset.load(tmp_path / "codes").classes == found.classes


def test_something_is_held_out_where_a_fraction_is_asked_for() -> None:
    names = [f"{number}.png" for number in range(24)]
    for fraction, least in ((0.001, 1), (0.1, 1), (0.999, 23)):
        assert least <= len(held_out(names, fraction)) < 24
    assert not held_out(names, 0)
    assert not held_out(["one.png"], 0.9)
    assert held_out(names, 0.5) == {name for name in names if int(digest(name)[:8], 16) < 2**31}
    assert held_out(names, 0.001) <= held_out(names, 0.2)


# ---------------------------------------------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbfred apple\r\n", ("red apple",)),
        (b"red  apple\r\ngreen pear\rred apple\n", ("red apple", "green pear")),
        (b"", ()),
    ],
)
def test_captions_beside_pictures(tmp_path: Path, data: bytes, expected: tuple[str, ...]) -> None:
    pictures(tmp_path, "x.png")
    (tmp_path / "x.TXT").write_bytes(data)
    assert captions(scan_folder(tmp_path)) == {"x.png": expected}


METADATA = [
    ("metadata.jsonl", '\ufeff{"file_name": "x.png", "text": "a"}', {"x.png": ("a",)}),
    ("metadata.jsonl", '{"file_name": "x.png", "text": "a\u2028b\u0085c"}', {"x.png": ("a\u2028b\u0085c",)}),
    ("metadata.jsonl", '{"file_name": "x.png", "text": null}', {"x.png": ()}),
    ("metadata.jsonl", '{"file_name": "x.png", "text": ["a", "b", ""]}', {"x.png": ("a", "b")}),
    ("metadata.jsonl", '{"file_name":"x.png","text":"a"}\n{"file_name":"./x.png","text":"b"}\n', {"x.png": ("a", "b")}),
    ("metadata.jsonl", '{"file_name": "sub\\\\y.png", "text": "a"}', {"sub/y.png": ("a",)}),
    ("sub/metadata.jsonl", '{"file_name": "y.png", "caption": "a"}', {"sub/y.png": ("a",)}),
    ("metadata.csv", '\ufefffile_name,text\r\nx.png,"a, b"\r\nx.png,"c\nd"\r\n', {"x.png": ("a, b", "c\nd")}),
    ("metadata.csv", "text,file_name\na,x.png\n,sub/y.png\n", {"x.png": ("a",)}),
]  # fmt: skip


@pytest.mark.parametrize(("file", "text", "expected"), METADATA)
def test_metadata(tmp_path: Path, file: str, text: str, expected: dict[str, tuple[str, ...]]) -> None:
    pictures(tmp_path, "x.png", "sub/y.png", "a/z.png")
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    found = scan_folder(tmp_path)
    by_class = {"x.png": (), "sub/y.png": ("sub",), "a/z.png": ("a",)}
    assert captions(found) == {**by_class, **expected}


def test_what_has_no_caption_is_kept_and_said_and_names_without_a_file_are_said(tmp_path: Path) -> None:
    pictures(tmp_path, "x.png", "y.png", "z.png")
    rows = [{"file_name": name, "text": "a"} for name in ("x.png", "gone.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "alone.txt").write_text("nothing beside it")
    found = scan_folder(tmp_path)
    assert captions(found) == {"x.png": ("a",), "y.png": (), "z.png": ()}
    notes = "\n".join(found.notes)
    assert "1 names in the metadata without a picture (gone.png)" in notes
    assert "1 caption files without a picture (alone.txt)" in notes
    assert "2 of 3 pictures have no caption (y.png, z.png)" in notes
    assert "A caption is a line of NAME.txt beside NAME.png, or text of metadata.jsonl" in notes
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "a"}')
    with pytest.raises(
        ValueError, match=r"names 1 files, none of them among the 3 pictures there; the first: 'gone.png'"
    ):
        scan_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "x.png", "text": "a"}\n{"text": "x"}', "jsonl:2: need file_name and"),
        ("metadata.jsonl", b'\n{"file_name": "x.png", "text": 3}', "jsonl:2: text must be a text, a list"),
        ("metadata.jsonl", b'{"file_name": "x.png", "text": "\\ud83d"}', "jsonl:1: half a surrogate"),
        ("metadata.jsonl", b"[]\n", "jsonl:1: a JSON object is needed"),
        ("metadata.jsonl", b'{"file_name', "jsonl:1: not valid JSON"),
        ("metadata.jsonl", b"\n\xe9", "jsonl is not UTF-8 text: .* line 2"),
        ("metadata.csv", b"file_name,text\nx.png,a, b\n", "csv:2: more fields than the header"),
        ("metadata.csv", b"file_name;text\nx.png;a\n", "csv:2: need file_name and text or caption"),
        ("x.txt", b"ok\ncaf\xe9", "txt is not UTF-8 text: .* line 2"),
    ],
)  # fmt: skip
def test_malformed_captions_are_named_with_their_line(tmp_path: Path, file: str, text: bytes, message: str) -> None:
    pictures(tmp_path, "x.png")
    (tmp_path / file).write_bytes(text)
    with pytest.raises(ValueError, match=message):
        scan_folder(tmp_path)


def test_several_captions_reach_codes_and_tokenizers(tmp_path: Path) -> None:
    pictures(tmp_path / "p", "x.png", "y.png")
    (tmp_path / "p/x.txt").write_text("red apple\ngreen pear\n")
    (tmp_path / "p/y.txt").write_text("plum")
    prepare_folder(tmp_path / "p", tmp_path / "images", size=16, split_fraction=0)
    images = ImageDataset.load(tmp_path / "images").select([1, 0])
    encode_dataset(tmp_path / "images", MeanTokenizer(), tmp_path / "codes")
    codes = CodeDataset.load(tmp_path / "codes")
    assert (images.captions, images.more_captions) == (["plum", "red apple"], [[], ["green pear"]])
    assert (codes.captions, codes.more_captions) == (["red apple", "plum"], [["green pear"], []])
    for folder in ("images", "codes"):
        assert sorted(training_texts(tmp_path / folder)) == ["green pear", "plum", "red apple"]


# ------------------------------------------------------------------------------------------------------- names


def test_keys_are_short_unique_and_steady() -> None:
    names = ["红色的苹果在白色的桌子上放着旁边有一杯水和面包" + end for end in (".png", ".jpg")]
    names += [f"{'long_folder/' * 9}{number}.png" for number in range(50)]
    names += [safe_key(name) for name in names]  # a file may be called like the key of another
    keys = [safe_key(name) for name in names]
    assert len(set(keys)) == len(set(names)) == len(keys)
    assert max(map(len, keys)) <= 80
    assert keys == [safe_key(name) for name in names]
    assert all(key.count("_") % 2 for key in keys[:52])


@pytest.mark.parametrize("depth", [1, 4])
def test_long_and_odd_names_are_stored(tmp_path: Path, depth: int) -> None:
    root = tmp_path / "p"
    name = "/".join(["红色的苹果在白色的桌子上放着旁边有一杯水和面包"] * depth)
    pictures(root, f"{name}.png", f"{name}2.png")
    raw = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(raw)
    Image.new("RGB", (8, 8)).save(os.fsdecode(raw + b"/caf\xe9.png"))
    index = prepare_folder(root, tmp_path / "out", size=8, split_fraction=0)
    assert index["splits"] == {"train": 3}
    assert len(set(ImageDataset.load(tmp_path / "out").keys)) == 3
    assert r"caf\xe9" in read_index(tmp_path / "out")["classes"]
    with open(raw + b"/caf\xe9.png", "wb") as file:
        file.write(b"torn")
    with pytest.raises(ValueError, match=r"caf\\xe9\.png is not a"):
        prepare_folder(root, tmp_path / "other", size=8)
