"""Scripts that measure cells of a study beside its table: seconds, and bounds of planned samplers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import frontier, step_budgets
from mmprime.studies.run import run_cell
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
  nested: [objective.masking=nested, train.steps=2]
evaluate: {{limit: 4, samples: 1, steps: [1, 4], maskings: []}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of small cells."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "study.yaml").write_text(STUDY.format(folder=tmp_path))
    return tmp_path / "study.yaml"


def test_cells_have_seconds_by_their_steps(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One training of each kind is timed."""
    monkeypatch.setattr(frontier, "BATCH", 2)
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
    assert not (file.parent / "runs").exists()


def test_planned_samplers_of_a_trained_cell_are_compared_in_pairs(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An order of a budget is another one than the study's, at one step all are alike."""
    words = ["step_budgets.py", str(file), "codes-nested-s3", "coarse_first steps=1", "coarse_first steps=4 budget=3,1"]
    monkeypatch.setattr(sys, "argv", [*words, "--against", "codes-nested-s3"])
    with pytest.raises(SystemExit):
        step_budgets.main()
    assert "codes-nested-s3 is not trained; mmprime study run" in capsys.readouterr().err
    study = Study.load(file)
    run_cell(study, next(cell for cell in study.cells() if cell.name == "codes-nested-s3"))
    step_budgets.main()
    one, four = ([each.strip() for each in line.split("|")] for line in capsys.readouterr().out.splitlines()[-2:])
    assert (one[1], one[2], one[4], one[5]) == ("1", "coarse_first", "+0.0 ± 0.0 %", "+0.0 ± 0.0 %")
    assert (four[1], four[2]) == ("4", "coarse_first budget=3,1")
    assert 5 < float(four[3].split()[0]) < 7
    assert four[5].endswith("%")
