"""A real process, killed for real, ends with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmprime.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
STEPS = 30


def start(directory: Path, *overrides: str) -> subprocess.Popen:
    settings = [f"train.steps={STEPS}", "train.batch=16", "train.save_every=3", "train.validate_every=0"]
    command = [sys.executable, "tools/train.py", "configs/toy.yaml", f"run.dir={directory}", *settings, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(directory: Path, process: subprocess.Popen | None = None) -> dict[str, torch.Tensor]:
    process = process or start(directory)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return load_file(directory / "checkpoints" / f"step_{STEPS:08d}" / "state.safetensors")


def kill_after(directory: Path, step: int, number: signal.Signals) -> int:
    """Start, wait for a checkpoint of ``step`` or later, send the signal; returns the exit code."""
    process = start(directory)
    checkpoints, deadline = Checkpoints(directory / "checkpoints"), time.monotonic() + 600
    while max(checkpoints.steps(), default=0) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=600)
    return process.returncode


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different, different


def test_kill_9_and_resume_ends_bitwise_equal(tmp_path):
    straight = start(tmp_path / "straight")
    assert kill_after(tmp_path / "killed", 6, signal.SIGKILL) == -signal.SIGKILL
    assert 6 <= max(Checkpoints(tmp_path / "killed/checkpoints").steps()) < STEPS
    same(finish(tmp_path / "killed"), finish(tmp_path / "straight", straight))


@pytest.mark.slow
def test_three_random_stops_end_bitwise_equal(tmp_path):
    chance = random.Random(time.time_ns())
    done = 0
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        step = done + chance.randint(1, 9)
        assert kill_after(tmp_path / "killed", step, number) == code, f"killed after step {step}"
        done = max(Checkpoints(tmp_path / "killed/checkpoints").steps())
        assert done < STEPS
    same(finish(tmp_path / "killed"), finish(tmp_path / "straight"))


def kill_at_random(directory: Path, chance: random.Random) -> int:
    """Start and kill -9: while it imports, or a few steps on, in the midst of a step or of a save; the newest step."""
    checkpoints = Checkpoints(directory / "checkpoints")
    process, began = start(directory, *FREQUENT), max(checkpoints.steps(), default=0)
    if chance.random() < 0.15:
        time.sleep(chance.uniform(0, 5))
    else:
        wanted = began + chance.randint(1, 10)
        while max(checkpoints.steps(), default=0) < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=600) == -signal.SIGKILL
    return max(checkpoints.steps(), default=0)


LONG = 400
FREQUENT = (f"train.steps={LONG}", "train.save_every=1", "train.validate_every=100")


@pytest.mark.slow
def test_twenty_random_kills_end_bitwise_equal(tmp_path):
    """Prints the seed and the steps at which the kills came."""
    seed = time.time_ns()
    chance, steps, directory = random.Random(seed), [], tmp_path / "killed"
    for _ in range(20):
        newest = kill_at_random(directory, chance)
        assert newest >= max(steps, default=0), "a kill lost a checkpoint"
        steps.append(newest)
    print(f"seed {seed}: 20 kills at steps {steps}")
    last = f"checkpoints/step_{LONG:08d}/state.safetensors"
    for run in (directory, tmp_path / "straight"):
        process = start(run, *FREQUENT)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
    assert "resuming" in (directory / "log.txt").read_text()
    assert len((directory / "command.txt").read_text().splitlines()) >= 15  # not all of those killed while importing
    same(load_file(directory / last), load_file(tmp_path / "straight" / last))
    same(load_file(directory / "model/model.safetensors"), load_file(tmp_path / "straight/model/model.safetensors"))
    logs = [(run / "log.jsonl").read_text().splitlines() for run in (directory, tmp_path / "straight")]
    assert len(logs[0]) == len(logs[1])
