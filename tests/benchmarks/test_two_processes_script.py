"""benchmarks/two_processes.py: the rate of a run is that of its log after starting up, and a run that fails is told."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).resolve().parents[2] / "benchmarks"), *sys.path])
    return importlib.import_module("two_processes")


def test_the_rate_is_the_median_after_the_first_lines(script: ModuleType, tmp_path: Path) -> None:
    lines = [{"kind": "train", "samples_per_second": rate} for rate in (1.0, 2.0, 40.0, 44.0, 43.0)]
    text = "\n".join(json.dumps(line) for line in [*lines, {"kind": "validate"}])
    (tmp_path / "log.jsonl").write_text(text)
    assert script.rate(tmp_path) == 43.0


def test_a_run_that_fails_is_told(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed"):
        script.finish([subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])], tmp_path)
