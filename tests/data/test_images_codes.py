"""Folders of pictures to image shards to packed codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datafixtures import MeanTokenizer, folder_bytes, write_pictures
from PIL import Image

from mmprime.data import CodeDataset, ImageDataset, check_dataset, encode_dataset, prepare_folder
from mmprime.data import codes as codes_module
from mmprime.data.building import build_dataset
from mmprime.data.pictures import centre_crop
from mmprime.data.shards import Entry, Unit


@pytest.fixture
def images(tmp_path: Path) -> Path:
    prepare_folder(write_pictures(tmp_path / "pictures"), tmp_path / "images", size=16, split_fraction=0.4)
    return tmp_path / "images"


def test_folder_round_trip(images: Path) -> None:
    data = ImageDataset.load(images)
    order = sorted(range(6), key=lambda i: data.captions[i])
    data = data.select(order)
    assert data.images.shape == (6, 3, 16, 16)
    assert data.images.dtype == torch.uint8
    assert data.captions == [f"caption {i}" for i in range(6)]
    assert data.labels is None
    mean = data.images.float().mean((1, 2, 3))
    assert torch.allclose(mean, 40.0 * torch.arange(6), atol=2)
    assert all("." not in key for key in data.keys)
    assert len(set(data.keys)) == 6


def test_splits_are_disjoint_and_complete(images: Path) -> None:
    train, val = (set(ImageDataset.load(images, split).keys) for split in ("train", "val"))
    assert train
    assert val
    assert not train & val
    assert train | val == set(ImageDataset.load(images).keys)


def test_second_run_of_folder_and_codes_is_byte_identical(tmp_path: Path, images: Path) -> None:
    tokenizer = MeanTokenizer()
    encode_dataset(images, tokenizer, tmp_path / "codes")
    before, calls = folder_bytes(tmp_path / "codes") | folder_bytes(images), tokenizer.calls
    prepare_folder(tmp_path / "pictures", images, size=16, split_fraction=0.4)
    encode_dataset(images, tokenizer, tmp_path / "codes")
    assert folder_bytes(tmp_path / "codes") | folder_bytes(images) == before
    assert tokenizer.calls == calls
    encode_dataset(images, MeanTokenizer(8), tmp_path / "codes")  # another tokenizer: everything is made again
    assert CodeDataset.load(tmp_path / "codes").num_codes == 8


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "p", 2)
    (root / "pic v1.0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"pic v1\.0\.png is not a readable image"):
        prepare_folder(root, tmp_path / "out")


def test_centre_crop_keeps_the_middle_and_puts_transparency_on_white() -> None:
    array = np.zeros((8, 24, 4), np.uint8)
    array[:, 8:16] = (200, 10, 10, 255)  # the middle square; the rest is transparent
    middle = np.asarray(centre_crop(Image.fromarray(array), 4))
    assert np.abs(middle.astype(int) - (200, 10, 10)).max() <= 1
    clear = np.asarray(centre_crop(Image.fromarray(np.zeros((8, 8, 4), np.uint8)), 4))
    assert (clear == 255).all()


def test_codes_round_trip(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "PACK", 2)
    data, tokenizer = ImageDataset.load(images), MeanTokenizer()
    encode_dataset(images, tokenizer, tmp_path / "codes")
    back = CodeDataset.load(tmp_path / "codes")
    assert (back.grid, back.num_codes, back.tokenizer_fingerprint) == ((4, 4), 16, "mean-16")
    assert sorted(back.keys) == sorted(data.keys)
    expected = dict(zip(data.keys, tokenizer.encode(data.images.float() / 255).flatten(1)))
    for key, caption, split, row in zip(back.keys, back.captions, back.splits, back.codes):
        assert torch.equal(row.long(), expected[key])
        assert caption == data.captions[data.keys.index(key)]
        assert split == data.splits[data.keys.index(key)]
    assert back.codes.dtype == torch.int32


def test_images_of_another_size_do_not_fit_the_tokenizer(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ValueError, match=r"16×16 px give codes of \(4, 4\)"):
        encode_dataset(images, MeanTokenizer(grid=(8, 8)), tmp_path / "codes")


def test_codes_out_of_range_are_refused(tmp_path: Path, images: Path) -> None:
    encode_dataset(images, MeanTokenizer(), tmp_path / "codes")
    index = json.loads((tmp_path / "codes/index.json").read_text())
    (tmp_path / "codes/index.json").write_text(json.dumps({**index, "num_codes": 5}))
    with pytest.raises(ValueError, match=r"allowed \[0, 5\)"):
        CodeDataset.load(tmp_path / "codes")


def webp(size: tuple[int, int]) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "WEBP")
    return buffer.getvalue()


def test_report_names_unreadable_mixed_and_leaked_images(tmp_path: Path) -> None:
    note = json.dumps({"caption": "same"}).encode()
    samples = [
        ("train", Entry("good", {"webp": webp((8, 8)), "json": note})),
        ("train", Entry("good2", {"webp": webp((8, 8)), "json": note})),
        ("train", Entry("wide", {"webp": webp((9, 8)), "json": note})),
        ("train", Entry("broken", {"webp": b"RIFFno", "json": note})),
        ("val_caption", Entry("leak", {"webp": webp((8, 8)), "json": note})),
    ]
    build_dataset(tmp_path, "images", [Unit("u", "r", lambda: samples)])
    problems = "\n".join(check_dataset(tmp_path).problems)
    assert "1 unreadable samples: train-u.tar.gz/broken" in problems
    assert "9×8 px among images of 8×8: train-u.tar.gz/wide" in problems
    assert "also in train: same" in problems
    with pytest.raises(ValueError, match="wide is 9×8 px"):
        ImageDataset.load(tmp_path)


def test_report_on_codes(tmp_path: Path, images: Path) -> None:
    encode_dataset(images, MeanTokenizer(), tmp_path / "codes")
    codes = CodeDataset.load(tmp_path / "codes").codes
    report = check_dataset(tmp_path / "codes", lambda kind: MeanTokenizer(8))
    used = len(set(codes.flatten().tolist()))
    share = torch.bincount(codes.flatten().long()).double() / codes.numel()
    entropy = float(-(share[share > 0] * share[share > 0].log()).sum())
    facts = "\n".join(report.facts)
    assert f"dead codes: {16 - used} " in facts
    assert f"unigram entropy: {entropy:.4f} nats = {entropy / np.log(2):.4f} bits" in facts
    assert f"ln C = {np.log(16):.4f}" in facts
    assert len([p for p in report.problems if "mismatch" in p]) == 2  # code book and fingerprint; the grid agrees
    assert check_dataset(tmp_path / "codes", lambda kind: MeanTokenizer()).problems == []
