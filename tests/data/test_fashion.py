"""Fashion-MNIST from its idx files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from datafixtures import folder_bytes

from mmprime.data import ImageDataset
from mmprime.data.sources.fashion import CLASSES, prepare_fashion


def write_idx(file: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(axis.to_bytes(4, "big") for axis in array.shape)
    file.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    folder = tmp_path / "package"
    folder.mkdir()
    for stem, count in (("train", 12), ("t10k", 3)):
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return folder


def test_every_pixel_and_label_comes_back_and_a_second_run_changes_nothing(package: Path, tmp_path: Path) -> None:
    index = prepare_fashion(package, tmp_path / "out")
    assert index["splits"] == {"train": 12, "val": 3}
    found = ImageDataset.load(tmp_path / "out", "train")
    raw = gzip.decompress((package / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    pixels = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(12, 1, 28, 28)
    assert torch.equal(found.images, pixels.expand(-1, 3, -1, -1))
    assert found.labels is not None
    assert found.labels.tolist() == [*range(10), 0, 1]
    assert found.captions[9] == CLASSES[9] == "ankle boot"
    before = folder_bytes(tmp_path / "out")
    prepare_fashion(package, tmp_path / "out")
    assert folder_bytes(tmp_path / "out") == before


def test_damaged_and_foreign_files_are_refused(package: Path, tmp_path: Path) -> None:
    images, labels = package / "train-images-idx3-ubyte.gz", package / "train-labels-idx1-ubyte.gz"
    body = gzip.decompress(images.read_bytes())
    for data, words in (
        (body[:-1], r"should hold \(12, 28, 28\) values, it holds 9407"),
        (b"\0\0\x0d\1" + body[4:], "no idx file of uint8"),
        (b"", "no idx file of uint8"),
    ):
        images.write_bytes(gzip.compress(data))
        with pytest.raises(ValueError, match=words):
            prepare_fashion(package, tmp_path / "out")
    images.write_bytes(b"plain")
    with pytest.raises(ValueError, match=r"train-images.* not a readable gzip"):
        prepare_fashion(package, tmp_path / "out")
    images.write_bytes(gzip.compress(body))
    write_idx(labels, np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match=r"pictures \(12, 28, 28\) and labels \(5,\)"):
        prepare_fashion(package, tmp_path / "out")
