"""The command line of tools/prepare.py, end to end on tiny sources."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datafixtures import write_pictures

from mmprime.cli.prepare import main

ROOT = Path(__file__).resolve().parents[2]


def prepare(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, runpy; sys.argv = ['prepare.py', 'codes', '--help']\n"
    code += f"try: runpy.run_path({str(ROOT / 'tools/prepare.py')!r}, run_name='__main__')\n"
    code += "finally: print('HEAVY', sorted({'torch', 'numpy', 'PIL', 'webdataset'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout


def test_folder_then_bpe_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "p")
    assert prepare("folder", tmp_path / "p", "--size", "16", "--split-fraction", "0", "--out", tmp_path / "d") == 0
    printed = capsys.readouterr()
    assert "train 6; 1 shards" in printed.out
    assert not printed.err  # a bar is for terminals
    assert prepare("bpe", "--data", tmp_path / "d", "--vocab-size", "270", "--out", tmp_path / "t") == 0
    assert (tmp_path / "t/tokenizer.json").exists()
    assert prepare("shards-check", tmp_path / "d") == 0
    shard = tmp_path / "d/train-00000.tar.gz"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert prepare("shards-check", tmp_path / "d") == 1
    assert "PROBLEM shard" in capsys.readouterr().out


def test_what_a_folder_leaves_out_is_printed_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_pictures(tmp_path / "p", 2)
    (root / ".git").mkdir()
    (root / "notes.pdf").write_bytes(b"")
    assert prepare("folder", root, "--size", "16", "--out", tmp_path / "d") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"left out of {root}: 1 hidden (.git); 1 of other kinds (notes.pdf)"
    assert said[-1].startswith(f"{tmp_path / 'd'}: ")
    index = json.loads((tmp_path / "d/index.json").read_text())
    assert index["left_out"] == {"hidden": 1, "of other kinds": 1}
    assert index["splits"] == {"train": 1, "val": 1}  # one of two is held out, however small the fraction


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text", "nowhere", "--out", "x"), "nowhere does not exist"),
        (("codes", "--images", "nowhere", "--tokenizer", "t", "--out", "x"), "nowhere is no folder"),
        (("folder", "nowhere", "--out", "x"), "nowhere is no folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
