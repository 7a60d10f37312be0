"""report: pivots of rows, refusals of rows that do not match, loss curves of logs, calibration of a model."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
from PIL import Image
from pipeline_world import write_text_model

from mmprime.cli import report
from mmprime.cli.reports import nfe_lines, pivot, read_files
from mmprime.engine import Canvas, Codec, Schedule, Span, transition_matrix
from mmprime.evaluation import Measure, read_rows, to_json
from mmprime.evaluation.metric import show
from mmprime.evaluation.plots import curves, read_log
from mmprime.evaluation.transitions import level_names, transitions

ROOT = Path(__file__).resolve().parents[2]
needs_plots = pytest.mark.skipif(util.find_spec("matplotlib") is None, reason="matplotlib (extra `plots`) is missing")


def row(value: float = 1.0, **fields: object) -> Measure:
    base = {"metric": "fid", "stderr": 0.25, "unit": "squared distance", "num_samples": 10, "nfe": 8, "seed": 0}
    hashes = {"model_hash": "m1", "data_hash": "d1", "reference_hash": "r1", "command": "mmprime evaluate x"}
    return Measure(**{"value": value, **base, **hashes, **fields})  # type: ignore[arg-type]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, *rows: Measure) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(to_json(rows))
    return name


def run(arguments: list[str]) -> int:
    try:
        return report.main(arguments)
    except SystemExit as done:
        return int(done.code or 0)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


# ---------------------------------------------------------------- tables


def test_files_side_by_side(here: Path) -> None:
    one = write("a/rows.json", row(12.3456), row(0.5, metric="kid", stderr=None, unit="x"))
    two = write("b/rows.json", row(11.0, model_hash="m2", stderr=0.031))
    assert run(["table", one, two, "--out", "t.md"]) == 0
    lines = Path("t.md").read_text().splitlines()
    assert cells(lines[0]) == ["metric", "unit", "NFE", "a/rows", "b/rows"]
    assert cells(lines[2]) == ["fid", "squared distance", "8", "12.35 ± 0.25", "11.000 ± 0.031"]
    assert cells(lines[3]) == ["kid", "x", "8", "0.5000", ""]
    assert "- a/rows: `mmprime evaluate x` (model_hash m1, data_hash d1, reference_hash r1)" in lines
    assert "model_hash m2" in lines[-1]


def test_nfe_across(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write("a.json", row(3.0, nfe=16), row(5.0, nfe=4), row(4.0, nfe=4, sampler="halton", guidance="2"))
    assert run(["table", name, "--by", "nfe"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert cells(lines[0]) == ["metric", "unit", "file", "NFE 4", "NFE 16"]
    assert cells(lines[2]) == ["fid", "squared distance", "a", "5.00 ± 0.25", "3.00 ± 0.25"]
    assert cells(lines[3]) == ["fid (halton, guidance 2)", "squared distance", "a", "4.00 ± 0.25", ""]


@pytest.mark.parametrize(
    ("error", "text"),
    [(None, "1.2346"), (0.0, "1.2346"), (12.0, "1 ± 12"), (0.5, "1.23 ± 0.50"), (0.0021, "1.2346 ± 0.0021")],
)
def test_as_many_decimals_as_the_error_means(error: float | None, text: str) -> None:
    assert show(row(1.23456, stderr=error)) == text


@pytest.mark.parametrize("field", ["data_hash", "reference_hash"])
@pytest.mark.parametrize("other", ["zz", None])
def test_rows_of_other_data_or_reference_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], field: str, other: str | None
) -> None:
    files = [write("a.json", row()), write("b.json", row(nfe=16, model_hash="m2", **{field: other}))]
    same_line = write("c.json", row(model_hash="m2", **{field: other}))
    assert run(["table", files[0], same_line, "--out", "t.md"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert f"'fid of a' has {field}" in error
    assert f"'fid of c' has {other}" in error
    if util.find_spec("matplotlib"):
        assert run(["nfe", *files, "--metric", "fid", "--out", "t.png"]) == 2
        assert f"'fid of b' has {other}" in capsys.readouterr().err
    assert not list(here.glob("t.*"))


def test_one_line_is_one_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = write("a.json", row(), row(nfe=16, model_hash="m2"))
    assert run(["table", mixed, "--by", "nfe"]) == 2
    assert "model_hash m1, 'fid of a' has m2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="model_hash"):
        nfe_lines(read_files([mixed]))
    assert "16" in pivot(read_files([mixed]))  # metrics against files: two lines, two models, nothing is compared


def test_what_cannot_be_read_or_stands_twice_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = write("a.json", row(), row(2.0))
    Path("none.json").write_text("[]")
    Path("bad.json").write_text('[{"metric": "fid"}]')
    for arguments, complaint in [
        (["table", twice], "two rows fid"),
        (["table", twice, twice], "given twice"),
        (["table", "none.json"], "no rows"),
        (["table", "bad.json"], "is no measurement"),
        (["table", "absent.json"], "absent.json holds no rows"),
        (["table", twice, "--by", "colour"], "invalid choice"),
        (["loss", "absent", "--out", "x.png"], "matplotlib" if not util.find_spec("matplotlib") else "not the folder"),
        (["loss", "absent", "--out", "x.bmp"], "x.bmp is no figure"),
        (["calibration", "--model", "absent", "--out", "x.txt"], "x.txt is no figure"),
        (["schedule", "--model", "absent", "--out", "x.txt"], "x.txt is no figure"),
    ]:
        assert run(arguments) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert complaint in error


# ---------------------------------------------------------------- figures


def test_lines_by_file_sampler_and_seed(here: Path) -> None:
    rows = [row(3, nfe=16), row(5, nfe=4, stderr=None), row(4, nfe=4, sampler="halton")]
    lines = nfe_lines(read_files([write("a.json", *rows), write("b.json", row(2, model_hash="m2"))]))
    assert [line.label for line in lines] == ["a", "a, halton", "b"]
    assert (lines[0].x, lines[0].y, lines[0].error) == ([4, 16], [5, 3], [None, 0.25])
    again = read_files([write("c.json", row(3), row(4, seed=1))])
    assert [line.label for line in nfe_lines(again)] == ["c, seed 0", "c, seed 1"]
    with pytest.raises(ValueError, match="twice at one NFE"):
        nfe_lines(read_files([write("d.json", row(3), row(4))]))


@needs_plots
def test_nfe_figure_of_a_metric_that_exists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write("a.json", *[row(30 / n, nfe=n) for n in (4, 8, 64)], row(unit="other"))
    assert run(["nfe", name, "--metric", "fit", "--out", "x.png"]) == 2
    assert "nearest: fid" in capsys.readouterr().err
    assert run(["nfe", name, "--metric", "fid", "--out", "x.png"]) == 2
    assert "choose one by --unit" in capsys.readouterr().err
    assert run(["nfe", name, "--metric", "fid", "--unit", "squared distance", "--out", "x.png"]) == 0
    with Image.open("x.png") as figure:
        assert figure.width > 600
    assert [path.name for path in here.iterdir() if path.suffix == ".png"] == ["x.png"]


LOG = [
    {"kind": "validate", "step": 0, "val/nelbo": 7.5, "val/nelbo_se": 0.2, "val/joint_loss": 5.0},
    {"kind": "train", "step": 50, "samples": 1600, "lr": 0.1, "loss/model": 5.5, "grad_norm/model": 1.0},
    {"kind": "train", "step": 100, "samples": 3200, "lr": 0.1, "loss/model": 5.0},
    {"kind": "validate", "step": 100, "val/nelbo": 6.5, "val/nelbo_se": 0.1, "val/nelbo_token_synchronous": 6.6},
]


def write_log(folder: Path, entries: list[dict], torn: str = "") -> Path:
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + torn)
    return folder


def test_curves_of_a_log(tmp_path: Path) -> None:
    training, validation = curves(read_log(write_log(tmp_path / "run", LOG, torn='{"kind": "tr')))
    assert [(line.label, line.x, line.y) for line in training] == [("loss/model", [1600, 3200], [5.5, 5.0])]
    assert [line.label for line in validation] == ["val/nelbo", "val/nelbo_token_synchronous"]  # no joint loss
    assert (validation[0].x, validation[0].y, validation[0].error) == ([0, 3200], [7.5, 6.5], [0.2, 0.1])
    assert (validation[1].x, validation[1].error) == ([3200], [None])
    with pytest.raises(ValueError, match="no training line"):
        curves(LOG[:1])
    (tmp_path / "run/log.jsonl").write_text("torn\n" + json.dumps(LOG[1]))
    with pytest.raises(ValueError, match="line 1 of"):
        read_log(tmp_path / "run")


@needs_plots
def test_loss_figure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [{"kind": "train", "step": 5, "samples": 10, "loss/tokenizer": 0.1}]
    runs = [write_log(here / "one", LOG), write_log(here / "two", plain)]
    assert run(["loss", *map(str, runs), "--out", "loss.svg"]) == 0
    text = Path("loss.svg").read_text()
    for words in ("training loss (nats/token)", "validation NELBO (nats/token)", "training examples seen"):
        assert words in text
    assert "2 training and 2 validation curves" in capsys.readouterr().out


@needs_plots
def test_calibration_of_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmprime.data import prepare_text

    model = write_text_model(here)
    (here / "docs").mkdir()
    for number in range(4):
        (here / "docs" / f"{number}.txt").write_text("the state of the union is as it was " * 4)
    prepare_text([here / "docs"], here / "texts")
    arguments = ["calibration", "--model", str(model), "--data", "texts", "--split", "train", "--limit", "12"]
    assert run([*arguments, "--out", "c.png", "--json", "c.json"]) == 0
    rows = read_rows("c.json")
    assert rows[0].metric == "train: text independent: calibration error (ECE)"
    assert rows[0].value > 0.005  # random heads know nothing of the text
    assert sum(each.num_samples for each in rows[3:]) == rows[0].num_samples > 12
    assert {len(each.model_hash or "") for each in rows} == {len(each.data_hash or "") for each in rows} == {16}
    assert rows[0].command.startswith("mmprime report calibration --model")
    said = capsys.readouterr().out
    assert "share right at" not in said
    assert "calibration error beyond chance" in said
    assert Path("c.png").is_file()
    assert run(["table", "c.json"]) == 0


def test_transitions_are_those_of_the_matrix() -> None:
    canvas = Canvas([Span("text", 2, Codec.base(4, 2))])
    schedule = Schedule.levels([1.0, 3.0], canvas)
    for step, row in enumerate(transitions(schedule, canvas, 4).tolist()):
        alpha = schedule.alpha(torch.tensor([1 - step / 4, 1 - (step + 1) / 4], dtype=torch.float64)[:, None])
        for level, chance in enumerate(row):
            before, after = alpha[:, level].tolist()
            masks = float(transition_matrix(Codec.base(2, 1), after, before)[1, 0])  # forward: visible, then masked
            assert chance == pytest.approx(masks * after / (1 - before))  # Bayes
    assert level_names(canvas) == ["text 0", "text 1"]


@needs_plots
def test_schedule_figure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_text_model(here)
    assert run(["schedule", "--model", str(model), "--out", "s.svg"]) == 2
    assert "one schedule for all its digits; give --level-powers" in capsys.readouterr().err
    assert run(["schedule", "--model", str(model), "--level-powers", "0.5,2", "--steps", "4", "--out", "s.svg"]) == 0
    assert "text 1: α = 1 - t^2" in capsys.readouterr().out
    assert "chance that a masked digit is revealed" in Path("s.svg").read_text()


def test_without_matplotlib_one_line_says_what_to_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmprime.evaluation.plots.util.find_spec", lambda name: None)
    name = write("a.json", row())
    assert run(["nfe", name, "--metric", "fid", "--out", "x.png"]) == 2
    assert capsys.readouterr().err == "error: drawing needs matplotlib: pip install 'mmprime[plots]'\n"
    assert run(["table", name]) == 0


def test_help_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys; sys.argv = ['report', '--help']\nfrom tools import report as t\ntry: t.main()\n"
    code += "except SystemExit: pass\nprint([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---------------------------------------------------------------- measured again


def test_the_same_numbers_agree_and_others_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [row(12.0, stderr=0.3), row(0.5, metric="chance", stderr=None)]
    write("old/a.json", *old)
    write("near/a.json", row(13.0, stderr=0.4, seed=1), old[1], row(metric="more"))
    write("far/a.json", row(14.0, stderr=0.4), old[1])
    assert run(["agree", "old", "near"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert cells(lines[2]) == ["fid", "squared distance", "12.00 ± 0.30", "13.00 ± 0.40", "2.00"]
    assert cells(lines[3])[-1] == ""
    assert lines[-1] == "1 rows agree within 3 standard errors (the furthest: 2.00)"
    assert run(["agree", "old/a.json", "near/a.json", "--within", "1.9"]) == 2
    assert run(["agree", "old", "far"]) == 2
    assert "1 of 1 rows differ by more than 3 standard errors, first 'fid'" in capsys.readouterr().err


def test_what_is_not_the_same_measurement_cannot_agree(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("old/a.json", row())
    Path("empty").mkdir()
    write("other.json", row(model_hash="m2"))
    for old, new, complaint in [
        ("old", "empty", "not measured again: empty/a.json"),
        ("empty", "old", "empty holds no .json file"),
        ("old/a.json", "other.json", "model_hash m1, 'fid' has m2"),
        ("old/a.json", write("b.json", row(nfe=16)), "no row 'fid' in squared distance at NFE 8"),
    ]:
        assert run(["agree", old, new]) == 2
        assert complaint in capsys.readouterr().err
