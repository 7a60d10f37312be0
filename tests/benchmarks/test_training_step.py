"""Curves of benchmarks/training_step.py: slopes, and that one size alone changes along each."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("training_step")


def test_a_power_is_its_own_slope(script: ModuleType) -> None:
    slope = script.Slope.of([1, 2, 8], [3 * x**1.5 for x in (1, 2, 8)])
    assert (slope.overall, slope.steepest) == pytest.approx((1.5, 1.5))


def test_a_jump_shows_between_neighbours(script: ModuleType) -> None:
    slope = script.Slope.of([1, 2, 4, 8], [1, 1, 8, 8])
    assert slope.steepest == pytest.approx(3)
    assert 0 < slope.overall < 3


@pytest.mark.parametrize("x", [[4], [4, 4], [4, 2]])
def test_points_that_do_not_grow_have_no_slope(script: ModuleType, x: list[int]) -> None:
    with pytest.raises(ValueError, match="grow"):
        script.Slope.of(x, x)


def test_along_a_curve_one_size_changes(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    job = script.Job
    monkeypatch.setattr(script, "Job", lambda size: sizes.append(size) or job(size))
    words = "--slope-codes 16,32 --slope-digits 1,2 --slope-length 4,8 --slope-batch 1,3 --slope-at 16,2,8,2"
    script.main([*words.split(), "--width", "64", "--repeats", "1"])
    found = [(size.codes, size.digits, size.length, size.batch, size.depth) for size in sizes]
    assert found == [
        (16, 2, 8, 2, 1), (32, 2, 8, 2, 1),
        (16, 1, 8, 2, 1), (16, 2, 8, 2, 1),
        (16, 2, 4, 2, 1), (16, 2, 8, 2, 1),
        (16, 2, 8, 1, 1), (16, 2, 8, 3, 1),
    ]  # fmt: skip
    assert capsys.readouterr().out.count("| slope |") == 4
