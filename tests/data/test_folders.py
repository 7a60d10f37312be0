"""The one lister of folders: links, loops, endings, hidden names, and what it says it left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmprime.data.folders import HIDDEN, OTHER, PICTURES, list_folder, natural
from mmprime.evaluation.images.sets import read_folder


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_endings_are_compared_without_case_and_folders_with_endings_are_entered(tmp_path: Path) -> None:
    touch(tmp_path / "b.PNG", tmp_path / "a.TiF", tmp_path / "batch.png" / "c.gif", tmp_path / "notes.pdf")
    found = list_folder(tmp_path, PICTURES)
    assert found.files == ["a.TiF", "b.PNG", "batch.png/c.gif"]
    assert found.left_out == {OTHER: ["notes.pdf"]}


def test_hidden_names_are_left_out_and_said(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in (".git/x.png", ".ipynb_checkpoints/a-checkpoint.png", "._a.png", "a.png")))
    touch(tmp_path / "__MACOSX/a.png")
    found = list_folder(tmp_path, PICTURES)
    assert found.files == ["a.png"]
    assert found.note() == f"left out of {tmp_path}: 4 hidden (._a.png, .git, .ipynb_checkpoints, …)"


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "in/z/1.png", tmp_path / "out/2.png")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/z")  # sorts before the folder itself
    (tmp_path / "in/b").symlink_to(tmp_path / "out")
    (tmp_path / "out/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/3.png").symlink_to(tmp_path / "out/2.png")
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    found = list_folder(tmp_path / "in", PICTURES)
    assert found.files == ["3.png", "b/2.png", "z/1.png"]
    assert found.left_out == {
        "links to folders that are already listed": ["a", "b/back"],
        "links to nothing": ["gone.png", "self"],
    }


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    touch(tmp_path / "a.png")
    found = list_folder(tmp_path, PICTURES)
    assert (found.files, found.left_out) == (["a.png"], {"no regular files": ["pipe.png"]})


def test_natural_order() -> None:
    names = ["10", "9", "n2", "n11", "a", "007", "7"]
    assert sorted(names, key=natural) == ["007", "7", "9", "10", "a", "n2", "n11"]


def test_pictures_to_be_judged_are_listed_alike(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "batch.png").mkdir()
    for number, name in enumerate(("a.png", "b.tif", "c.GIF", ".ipynb_checkpoints/a-checkpoint.png")):
        kind = "GIF" if name.endswith("GIF") else None
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name, format=kind)
    found = read_folder(tmp_path)
    assert [file.name for file in found.files] == ["a.png", "b.tif", "c.GIF"]
    assert HIDDEN in found.note
    with pytest.raises(ValueError, match=r"holds 0 pictures .* left out of .*: 1 hidden \(\.x\.png\)"):
        read_folder(_with(tmp_path / "other", ".x.png"))


def _with(folder: Path, name: str) -> Path:
    touch(folder / name)
    return folder
