"""A run's folder says from its first second what runs there; what is printed is kept, bars are not."""

import json
import subprocess
import sys

import pytest
from training_world import LineTask, small_config

from mmprime.cli import train
from mmprime.training.config import load_config
from mmprime.training.run_folder import RunBusy, _git_state, opened
from mmprime.training.trainer import Trainer


def toy(directory, *more):
    small = ["train.steps=2", "train.batch=4", "train.validate_every=0", "train.warmup=1"]
    return ["configs/toy.yaml", f"run.dir={directory}", *small, *more]


def test_a_started_run_can_be_read_before_its_data_are(tmp_path):
    config = load_config("configs/toy.yaml", [f"run.dir={tmp_path}", "train.lr=0.5"])
    with opened(config):
        again = load_config(tmp_path / "config.yaml")
        assert (again.train.lr, again.toy.codes, again.train.betas) == (0.5, 6, [0.9, 0.99])
        versions = json.loads((tmp_path / "versions.json").read_text())
        assert {"python", "torch", "mmprime", "platform", "git"} <= set(versions)
        with pytest.raises(RunBusy), opened(config):
            pass


def test_the_tool_keeps_its_lines_and_each_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train.py", *toy(tmp_path)])
    assert train.main(toy(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert train.main(toy(tmp_path, "train.lr=0.25", "train.steps=3")) == 0
    printed += capsys.readouterr().out
    log = (tmp_path / "log.txt").read_text()
    assert [line for line in log.splitlines() if not line.startswith("---")] == printed.splitlines()
    assert "learned bound" in log or "not validated" in log
    commands = (tmp_path / "command.txt").read_text().splitlines()
    assert len(commands) == 2
    assert all("python tools/train.py configs/toy.yaml" in line for line in commands)
    assert load_config(tmp_path / "config.yaml").train.lr == 0.25


def test_a_refused_start_is_noted_and_changes_no_record_of_the_run(tmp_path, capsys):
    assert train.main(toy(tmp_path)) == 0
    before = (tmp_path / "config.yaml").read_text()
    assert train.main(toy(tmp_path, "toy.sharpness=1.0")) == 2
    assert "toy.sharpness: 2.0 -> 1.0" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == before
    assert "ended by ValueError" in (tmp_path / "log.txt").read_text()


def test_export_and_dry_run_leave_the_folder_as_it_is(tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(toy(run)) == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train.main([*toy(run), "--export", str(tmp_path / "out")]) == 0
    assert train.main([*toy(run), "--dry-run"]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert (tmp_path / "out/training.json").is_file()


def test_the_best_checkpoint_can_be_exported(tmp_path, capsys):
    run = [*toy(tmp_path / "run"), "train.steps=4", "train.lr=0.5", "train.ema=0", "train.keep_last=1"]
    assert train.main([*run, "--export", str(tmp_path / "out"), "--best"]) == 2
    assert train.main([*run, "--best"]) == 2
    assert train.main([*run, "train.validate_every=1"]) == 0
    best = json.loads((tmp_path / "run/checkpoints.json").read_text())["best"]
    assert best < 4
    assert f"lowest held-out loss: step {best}; its model is written by" in capsys.readouterr().out
    assert train.main([*run, "--export", str(tmp_path / "out"), "--best"]) == 0
    about = json.loads((tmp_path / "out/training.json").read_text())
    assert about["step"] == best
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if about["metrics"].items() <= row.items()] == [best]


def test_bars_stay_out_of_the_log(tmp_path):
    with opened(small_config(tmp_path)):
        print("a line")
        sys.stderr.write("\r 50%|#####     |")
        print("a warning", file=sys.stderr)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[1:] == ["a line", "a warning"]


def test_a_library_run_has_the_same_records(tmp_path):
    Trainer(LineTask(), small_config(tmp_path)).run()
    assert {"config.yaml", "versions.json", "command.txt", "log.txt"} <= {path.name for path in tmp_path.iterdir()}
    assert "step 12: error" in (tmp_path / "log.txt").read_text()


def test_git_state_tells_commit_and_changes(tmp_path):
    assert _git_state(tmp_path) is None

    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", tmp_path, *names, *words], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    assert _git_state(tmp_path) == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "file").write_text("2")
    assert _git_state(tmp_path)["dirty"] is True


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(toy(tmp_path / "file")) == 2
    assert train.main(toy(tmp_path / "file" / "below")) == 2
    assert capsys.readouterr().err.count("take another run.dir") == 2


def test_a_log_that_cannot_be_written_ends_with_a_line_and_not_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    with opened(small_config(tmp_path)):
        (tmp_path / "log.txt").unlink()
        (tmp_path / "log.txt").mkdir()
        print("one")
        print("two")
    printed = capsys.readouterr()
    assert printed.out == "one\ntwo\n"
    assert printed.err.count("log.txt cannot be written (Is a directory): it ends here") == 1
