"""Data sets of the package `datasets`, by the package itself, where it is installed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmprime.data import ImageDataset, load_documents, prepare_folder, read_index
from mmprime.data.shards import read_samples
from mmprime.data.sources.huggingface import Columns, prepare_saved
from mmprime.data.sources.huggingface_export import export_saved
from mmprime.data.text import read_documents

CLASSES = ["ankle_boot", "bag"]


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the package datasets .*pip install 'mmprime\[datasets\]'"):
        prepare_saved(tmp_path, tmp_path / "out")


@pytest.fixture(scope="module")
def datasets() -> object:
    return pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def pictures(datasets, tmp_path_factory) -> object:
    """Ten pictures in two classes, some with a caption of their own."""
    records = {
        "image": [Image.fromarray(pixels(i)) for i in range(10)],
        "label": [i % 2 for i in range(10)],
        "text": [f"picture {i}" if i < 5 else None for i in range(10)],
    }
    named = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES), "text": datasets.Value("string")}
    return datasets.Dataset.from_dict(records, features=datasets.Features(named))


def as_folder(root: Path) -> Path:
    """The same as files."""
    for i in range(10):
        folder = root / ("val" if i >= 8 else "train") / CLASSES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(i)).save(folder / f"{i}.png")
        if i < 5:
            (folder / f"{i}.txt").write_text(f"picture {i}")
    return root


def by_picture(folder: Path) -> list[tuple[bytes, str, int, str]]:
    data = ImageDataset.load(folder)
    assert data.labels is not None
    return sorted(
        (image.numpy().tobytes(), caption, label, split)
        for image, caption, label, split in zip(data.images, data.captions, data.labels.tolist(), data.splits)
    )


def test_pictures_are_those_of_a_folder_of_files(datasets, pictures, tmp_path: Path) -> None:
    parts = {"train": pictures.select(range(8)), "validation": pictures.select(range(8, 10))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    for split, part in parts.items():
        part.to_parquet(str(tmp_path / f"parquet/{split}-00000-of-00001.parquet"))
    prepare_folder(as_folder(tmp_path / "files"), tmp_path / "from_files", size=16)
    for kind in ("saved", "parquet"):
        index = prepare_saved(tmp_path / kind, tmp_path / f"from_{kind}", 16)
        assert index["splits"] == {"train": 8, "val": 2}
        assert index["classes"] == CLASSES
        assert by_picture(tmp_path / f"from_{kind}") == by_picture(tmp_path / "from_files")
        assert prepare_saved(tmp_path / kind, tmp_path / f"from_{kind}", 16) == index


def test_one_split_is_held_out_of(pictures, tmp_path: Path) -> None:
    pictures.rename_columns({"image": "photo", "text": "about"}).save_to_disk(str(tmp_path / "saved"))
    index = prepare_saved(tmp_path / "saved", tmp_path / "out", 16, Columns(text="about"), split_fraction=0.3)
    assert index["splits"]["train"] + index["splits"]["val"] == 10
    assert index["splits"]["val"] >= 1
    captions = ImageDataset.load(tmp_path / "out").captions
    assert sorted(captions) == sorted([*(f"picture {i}" for i in range(5)), *("ankle boot", "bag") * 2, "bag"])


def test_export_and_back(datasets, pictures, tmp_path: Path) -> None:
    several = pictures.map(lambda row: {"text": [row["text"], "again"] if row["text"] else []}, remove_columns="text")
    several.save_to_disk(str(tmp_path / "saved"))
    prepare_saved(tmp_path / "saved", tmp_path / "shards", 16, split_fraction=0.2)
    index = read_index(tmp_path / "shards")
    assert export_saved(tmp_path / "shards", tmp_path / "export") == {
        {"val": "validation"}.get(name, name): count for name, count in index["splits"].items()
    }
    back = datasets.load_from_disk(str(tmp_path / "export"))
    train = back["train"].cast_column("image", datasets.Image(decode=False))
    stored = [files["webp"] for _, _, files in read_samples(tmp_path / "shards", "train")]
    assert [row["image"]["bytes"] for row in train] == stored
    assert back["train"].features["label"].names == CLASSES
    assert {"picture 0", "again"} <= {text for row in back["train"]["text"] for text in row} | set(
        back["validation"]["text"][0]
    )
    shown = torch.from_numpy(np.array(Image.open(io.BytesIO(stored[0])).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(shown, ImageDataset.load(tmp_path / "shards", "train").images[0])
    with pytest.raises(ValueError, match="is there already"):
        export_saved(tmp_path / "shards", tmp_path / "export")


def test_text_there_and_back(datasets, tmp_path: Path) -> None:
    texts = ["The clocks were striking thirteen.", "  ", "Nobody had wound them."]
    parts = {
        "train": datasets.Dataset.from_dict({"text": texts}),
        "test": datasets.Dataset.from_dict({"text": ["Why?"]}),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    prepare_saved(tmp_path / "saved", tmp_path / "shards", split_fraction=0.3)
    assert load_documents(tmp_path / "shards", "train") == texts[:1]
    assert load_documents(tmp_path / "shards", "val") == texts[2:]
    assert load_documents(tmp_path / "shards", "test") == ["Why?"]
    export_saved(tmp_path / "shards", tmp_path / "export")
    prepare_saved(tmp_path / "export", tmp_path / "again", split_fraction=0)
    assert sorted(d.text for d in read_documents(tmp_path / "again")) == sorted([texts[0], texts[2], "Why?"])


def test_what_is_no_such_set_is_one_line(datasets, pictures, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    pictures.to_parquet(str(tmp_path / "torn/train.parquet"))
    data = (tmp_path / "torn/train.parquet").read_bytes()
    (tmp_path / "torn/train.parquet").write_bytes(data[: len(data) // 2])
    pictures.save_to_disk(str(tmp_path / "saved"))
    wrong = pictures.remove_columns(["text", "image"])
    wrong.save_to_disk(str(tmp_path / "wrong"))
    for name, columns, message in (
        ("empty", Columns(), "neither what save_to_disk writes"),
        ("torn", Columns(), "cannot be read as a saved data set"),
        ("saved", Columns(text="words"), "no column 'words'; there are image, label, text"),
        ("wrong", Columns(), "choose --image or --text of label"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            prepare_saved(tmp_path / name, tmp_path / "out", 16, columns)
        assert "\n" not in str(caught.value)
