"""Tars that others have written, and rows of tokens: indexed, checked, streamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stores_world import write_rows
from test_encoding import png, write_tar

from mmprime.data import check_dataset
from mmprime.data.foreign import index_tars
from mmprime.data.pictures import read_square
from mmprime.data.shards import read_index, read_samples
from mmprime.training.schema import DataConfig, TrainConfig
from mmprime.training.streams import StreamedPictures, StreamPlan


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number in range(3):
        members = {f"p{i}.png": png(i, (20 + i, 16)) for i in range(10 * number, 10 * number + 10)}
        write_tar(tmp_path / f"tars/train-{number:06d}.tar", members)
    write_tar(tmp_path / "tars/val-000000.tar", {"v.png": png(99), "v.cls": b"1"})
    return tmp_path / "tars"


def test_tars_of_others_are_streamed_at_the_size_that_is_asked_for(tars: Path) -> None:
    index = index_tars(tars)
    assert index == read_index(tars, "images")
    assert index["splits"] == {"train": 30, "val": 1}
    assert [key for _, key, _ in read_samples(tars, "val")] == ["v"]
    plan = StreamPlan(DataConfig(path=str(tars), stream=True, buffer=24), index, TrainConfig(batch=5), 0)
    stream = StreamedPictures(plan, 16)
    epoch = torch.cat([stream[torch.arange(p, p + 5)] for p in range(0, 30, 5)])
    wanted = [np.asarray(read_square(png(i, (20 + i, 16)), 16)).transpose(2, 0, 1) for i in range(30)]
    assert sorted(p.numpy().tobytes() for p in epoch) == sorted(w.tobytes() for w in wanted)
    with pytest.raises(ValueError, match="is there already"):
        index_tars(tars)


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("train 1.tar", {"a.png": png(0)}, r"rename train 1\.tar"),
        ("train.tar", {"a.txt": b"a"}, r"train\.tar: a holds no image"),
        ("train.tar", {"a.png": png(0), "b.png": png(1), "a.jpg": png(2)}, r"1 keys come twice"),
    ],
)
def test_tars_that_cannot_be_counted_are_named(
    tmp_path: Path, name: str, members: dict[str, bytes], message: str
) -> None:
    write_tar(tmp_path / name, members)
    with pytest.raises(ValueError, match=message):
        index_tars(tmp_path)


def test_rows_of_tokens_are_checked(tmp_path: Path) -> None:
    report = check_dataset(write_rows(tmp_path / "rows"))
    assert not report.problems
    assert "rows of 2 tokens; unigram entropy 4.9053 nats, ln C = 4.9053" in report.facts  # each of 135 ids once
    shard = tmp_path / "rows/train-s0001.tar.gz"
    shard.write_bytes(shard.read_bytes()[:-4])
    assert "truncated" in check_dataset(tmp_path / "rows").problems[0]
