"""Seconds of cells: one training of each kind is timed, and cells of other lengths have its seconds by their steps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import frontier
from mmprime.studies.spec import Study
from mmprime.studies.store import read_results

ROOT = Path(__file__).resolve().parents[2]

STUDY = """
dir: {folder}/runs
results: {folder}/study.json
seeds: [3, 4]
bases:
  codes:
    config: benchmarks/studies/configs/codes.yaml
    span: image
    set: [train.batch=4, model.width=32, model.depth=1, model.codec.image.digits=2, run.precision=fp32]
extra:
  short: [objective.masking=token_synchronous, train.steps=10]
  long: [objective.masking=token_synchronous, train.steps=40]
  nested: [objective.masking=nested, train.steps=10]
evaluate: {{steps: [1, 4]}}
"""


def test_cells_have_seconds_by_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(frontier, "BATCH", 2)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(folder=tmp_path))
    monkeypatch.setattr(sys, "argv", ["benchmarks/frontier.py", str(file), "--repeats", "1"])
    frontier.main()
    rows = {group: {row.metric: row for row in some} for group, some in read_results(Study.load(file).seconds).items()}
    assert sorted(rows) == ["codes-long", "codes-nested", "codes-short"]
    short, long = rows["codes-short"], rows["codes-long"]
    assert long["training"].value == pytest.approx(4 * short["training"].value)
    assert long["sampling T=4"] == short["sampling T=4"]
    assert short["sampling T=4"].nfe == 4
    assert 0 < short["sampling T=1"].value < short["sampling T=4"].value
    assert short["training"].command.startswith("python benchmarks/frontier.py")
    assert not (tmp_path / "runs").exists()
