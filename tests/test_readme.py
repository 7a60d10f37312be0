"""The README runs: its Python blocks as they stand, its commands with the options that the tools have."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mmprime.evaluation import read_rows, table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs/results.md").read_text()
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = sorted(set(re.findall(r"^python (tools/\S+\.py[^#\n]*)", README, re.M)))
RECORDED = "benchmarks/measured/likelihood.json"
LINKS = re.findall(r"\]\(((?:docs|assets)/[^)]+)\)", README)


@pytest.mark.parametrize("number", range(len(PYTHON_BLOCKS)))
def test_python_blocks_run(number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_BLOCKS[number]], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_there_is_something_to_run() -> None:
    assert len(PYTHON_BLOCKS) >= 2
    assert len(COMMANDS) >= 10
    assert LINKS


@pytest.mark.parametrize("command", COMMANDS)
def test_options_exist(command: str) -> None:
    """Every option a README command uses is one that its tool's --help knows; every config it names is there."""
    tool, *arguments = shlex.split(command)
    verb = arguments[:1] if tool.endswith(("evaluate.py", "prepare.py")) else []
    done = subprocess.run([sys.executable, tool, *verb, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    for argument in arguments:
        if argument.startswith("--"):
            assert argument in done.stdout, f"{tool} has no {argument}"
        if argument.startswith("configs/"):
            assert (ROOT / argument).is_file(), argument


@pytest.mark.parametrize("path", LINKS)
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists(), path


def test_the_printed_table_is_the_recorded_one() -> None:
    """Each line of the table under Evaluate is one that its first command printed."""
    printed = [line.split() for line in table(read_rows(ROOT / RECORDED)).splitlines()]
    shown = re.findall(r"^\| (?:metric|val_vendor).*\|$", README, re.M)
    assert len(shown) > 3
    assert all(line.split() in printed for line in shown)
    assert f"`{read_rows(ROOT / RECORDED)[0].command.split(' --json')[0].replace(chr(39), chr(34))}`" in RESULTS
