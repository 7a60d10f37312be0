"""Bounds against seconds: means over seeds, the front, the best bound within a time, and the figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmprime.cli.study import main
from mmprime.evaluation import Measure
from mmprime.studies.frontier import Cost, budget_table, cost_table, front, panel, sampling_costs, training_costs
from mmprime.studies.spec import Study
from mmprime.studies.store import read_results, write_results

STUDY = """
dir: {folder}/runs
results: {folder}/study.json
seeds: [0, 1]
bases: {{codes: {{config: benchmarks/studies/configs/codes.yaml, span: image}}}}
extra: {{whole: [objective.masking=token_synchronous], apart: [objective.masking=independent], odd: []}}
evaluate: {{steps: [2, 8]}}
"""


def bound(time: str, masking: str, value: float, seed: int) -> Measure:
    return Measure(f"nelbo image {time} {masking}", value, 0.25, "nats/token", 4, 1, seed)


def spent(*seconds: float) -> list[Measure]:
    names = ("training", "sampling T=2", "sampling T=8")
    return [Measure(name, value, None, "CPU seconds", 3, 0, 0) for name, value in zip(names, seconds)]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two groups with bounds and seconds; a third that has seconds alone."""
    (tmp_path / "study.yaml").write_text(STUDY.format(folder=tmp_path))
    study = Study.load(tmp_path / "study.yaml")
    table = {}
    for seed, shift in ((0, 0.0), (1, 0.5)):
        whole = [("continuous", 5.0), ("T=2", 8.0), ("T=8", 6.0)]
        table[f"codes-whole-s{seed}"] = [bound(time, "token_synchronous", v + shift, seed) for time, v in whole]
    apart = [("continuous", 4.5), ("T=2", 9.0), ("T=8", 5.0)]
    table["codes-apart-s0"] = [bound(time, "independent", value, 0) for time, value in apart]
    write_results(study.results, table)
    seconds = {"codes-whole": spent(100, 0.01, 0.03), "codes-apart": spent(150, 0.012, 0.05)}
    write_results(study.seconds, {**seconds, "codes-odd": spent(1, 1, 1)})
    return study


def test_bounds_are_means_over_the_seeds_that_all_have(study: Study) -> None:
    """Seed 0 alone, whose error is that over examples; then both."""
    assert training_costs(study, "codes") == [Cost("whole", None, 100, 5.0, 0.25), Cost("apart", None, 150, 4.5, 0.25)]
    assert [(cost.name, cost.steps, cost.seconds, cost.bound) for cost in sampling_costs(study, "codes")] == [
        ("whole", 2, 0.01, 8.0), ("whole", 8, 0.03, 6.0), ("apart", 2, 0.012, 9.0), ("apart", 8, 0.05, 5.0),
    ]  # fmt: skip
    assert [cost.bound for cost in training_costs(study, "codes", 8)] == [6.0, 5.0]
    table = read_results(study.results)
    write_results(study.results, {**table, "codes-apart-s1": [bound("continuous", "independent", 4.7, 1)]})
    whole, apart = training_costs(study, "codes")
    assert (whole.bound, apart.bound) == (5.25, pytest.approx(4.6))
    assert (whole.error, apart.error) == (pytest.approx(0.25), pytest.approx(0.1))


def test_the_front_leaves_out_what_is_dearer_and_no_better() -> None:
    a, b, c, d = Cost("a", 1, 1.0, 9.0), Cost("b", 1, 2.0, 9.0), Cost("c", 1, 2.0, 7.0), Cost("d", 1, 3.0, 7.5)
    assert front([d, c, b, a]) == [a, c]
    lines = cost_table([d, c, b, a]).splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["front", "front", "2.00 x a", "1.50 x c"]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["a", "c", "b", "d"]


def test_the_best_bound_within_a_time_is_marked(study: Study) -> None:
    """T in brackets; the front has three points, each with a tenth more time."""
    cells = [
        [each.strip() for each in line.split("|")[1:-1]]
        for line in budget_table(sampling_costs(study, "codes")).splitlines()
    ]
    assert cells[0] == ["cell", "11 ms", "33 ms", "55 ms"]
    assert cells[2] == ["whole", "**8.00 (2)**", "**6.00 (8)**", "6.00 (8)"]
    assert cells[3] == ["apart", "", "9.00 (2)", "**5.00 (8)**"]


def test_a_panel_has_a_line_a_group_and_the_front(study: Study) -> None:
    label, _, lines, best = panel(sampling_costs(study, "codes"), "codes")
    assert label == "codes, CPU seconds"
    assert [(line.label, [*line.x]) for line in lines] == [("whole", [0.01, 0.03]), ("apart", [0.012, 0.05])]
    assert ([*best.x], [*best.y]) == ([0.01, 0.03, 0.05], [8.0, 6.0, 5.0])


def test_the_command_prints_tables_and_draws(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["frontier", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "f.png")]) == 0
    printed = capsys.readouterr().out
    assert "### codes, training" in printed
    assert "5.00 ± 0.25" in printed
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["frontier", str(tmp_path / "study.yaml"), "--only", "absent"]) == 2
    assert "no base whose name contains 'absent' has cells with seconds in" in capsys.readouterr().err
    study.seconds.unlink()
    assert main(["frontier", str(tmp_path / "study.yaml")]) == 2
    assert "study_seconds.json; python benchmarks/frontier.py" in capsys.readouterr().err
