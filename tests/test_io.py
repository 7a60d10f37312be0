"""Files and folders are whole or absent; leftovers are told from everything else."""

import os

import pytest
import torch

from mmprime.io import (
    clear_leftovers,
    read_json,
    read_text,
    remove_folder,
    sha256,
    split_lines,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)
from mmprime.tokenizers import TextTokenizer


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(TypeError), whole_file(tmp_path / "a.json") as temporary:
        temporary.write_text("half") + "fails"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_new_folder_appears_whole_and_a_failed_one_not_at_all(tmp_path):
    with pytest.raises(TypeError), whole_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("half") + "fails"
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("whole")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model/config.json").read_text() == "whole"


def test_what_lies_in_a_folder_already_stays_and_the_manifest_is_replaced_last(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    moved, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(os.path.basename(b)), real(a, b)))
    with whole_folder(tmp_path) as folder:
        for name in ("config.json", "weights", "another"):
            (folder / name).write_text("new")
    assert moved == ["another", "weights", "config.json"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_only_leftovers_are_cleared(tmp_path):
    names = [".model.12.tmp", ".a.12.tmp.json", ".git", ".env", ".a.tmp", "b.12.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
    assert [path.name for path in clear_leftovers(tmp_path)] == [".a.12.tmp.json", ".model.12.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
    remove_folder(tmp_path / "b.12.tmp")
    assert not (tmp_path / "b.12.tmp").exists()


def test_a_hash_of_several_files_is_that_of_their_contents(tmp_path):
    (tmp_path / "a").write_text("ab")
    (tmp_path / "b").write_text("c")
    assert sha256(tmp_path / "a", tmp_path / "b") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_altered_text_tokenizer_is_refused(tmp_path):
    TextTokenizer.train(["a cat and a dog"], 262).save(tmp_path)
    assert TextTokenizer.load(tmp_path).vocab_size >= 258
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<pad>", "<pod>"))
    with pytest.raises(ValueError, match=r"config\.json expects .*damaged or exchanged"):
        TextTokenizer.load(tmp_path)


def test_temporary_names_of_one_process_differ_by_file(tmp_path):
    with whole_file(tmp_path / "x.png") as one, whole_file(tmp_path / "x.json") as two:
        torch.save({}, one)
        two.write_text("{}")
        assert one.suffix == ".png"
        assert one != two


def test_json_comes_back_and_what_is_no_object_is_refused_by_name(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"ä": [1, None]})
    assert read_json(file) == {"ä": [1, None]}
    for content, words in (
        (b"{", "a.json: not valid JSON"),
        (b"\xff\xfe{}", "a.json: not valid JSON"),
        (b"[" * 100_000, "a.json: not valid JSON"),
        (b'["x"]', r"a.json: a JSON object is needed, this is a list: \"\['x'\]\""),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_json(file)


def test_text_that_is_none_is_refused_with_the_way_out(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\u2028three\n".encode())
    assert split_lines(read_text(file)) == ["one", "two\u2028three"]
    for content, words in (
        (b"a\nb\xe9", "byte 0xe9 at position 3 .*line 2.*iconv -f LATIN1"),
        ("hé".encode("utf-16"), "iconv -f UTF-16"),
        (b"a\0b", "NUL byte at position 1"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_text(file)
