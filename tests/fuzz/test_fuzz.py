"""Random command lines and damaged files end with a documented exit code and one line, never with a traceback.

python -m pytest tests/fuzz -m slow            5,000 inputs;  FUZZ_INPUTS=500 for fewer
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")
import fuzz_world as world
from hypothesis import HealthCheck, given, settings

INPUTS = int(os.environ.get("FUZZ_INPUTS", "5000"))
HOW = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "print_blob": False}


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The world on disk, as the working folder."""
    before, root = Path.cwd(), tmp_path_factory.mktemp("world")
    world.build(root)
    yield root
    os.chdir(before)


@pytest.mark.slow
@settings(max_examples=max(1, INPUTS * 2 // 5), **HOW)
@given(words=world.command_lines())
def test_command_lines(here: Path, words: list[str]) -> None:
    world.require_ending(words)


@pytest.mark.slow
@settings(max_examples=max(1, INPUTS * 3 // 5), **HOW)
@given(case=world.damaged_files())
def test_damaged_files(here: Path, case: tuple[str, bytes, list[str]]) -> None:
    name, body, words = case
    whole = Path(name).read_bytes()
    Path(name).write_bytes(body)
    try:
        world.require_ending(words)
    finally:
        Path(name).write_bytes(whole)


@pytest.mark.slow
def test_the_readers_succeed_on_whole_files(here: Path) -> None:
    for lines in world.READERS.values():
        for words in lines:
            assert world.ending(words)[0] == 0, (words, world.ending(words))
