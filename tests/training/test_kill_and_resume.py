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
