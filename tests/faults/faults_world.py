"""Trainings of the toy as they are started by hand, alone or by torchrun, and what they leave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from mmprime.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
TOY = [
    "configs/toy.yaml", "train.batch=16", "train.accumulate=2", "train.validate_every=0", "train.log_every=20",
    "train.ema=0.9", "run.threads=1",
]  # fmt: skip


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def begin(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """In a session of its own; output and errors come together."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    variables.pop("IMAGENET_SHARDS", None)
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip


def train(run: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """One process."""
    return begin([sys.executable, "-m", "mmprime", "train", *arguments, f"run.dir={run}"], **environment)


def torchrun(run: Path, *arguments: str) -> subprocess.Popen[str]:
    """Two processes, as docs/scale.md says."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    return begin([*launcher, "-m", "mmprime", "train", *arguments, f"run.dir={run}"])


def pair(run: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Two processes without torchrun, which would end the one when the other has ended."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [train(run, *arguments, **shared, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]


def children(pid: int) -> list[int]:
    """Processes started by a process, the oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return sorted(found)


def ended(pid: int) -> bool:
    """Whether a process has ended; its parent may not know yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def newest(run: Path) -> int:
    """The step of the newest checkpoint that stands, 0 if none does."""
    return max(Checkpoints(run / "checkpoints").steps(), default=0)


def wait_for(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of this step or a later one stands, or the process has ended."""
    deadline = time.monotonic() + 300
    while newest(run) < step and process.poll() is None:
        assert time.monotonic() < deadline, f"no checkpoint of step {step}"
        time.sleep(0.002)


def finish(*processes: subprocess.Popen[str]) -> str:
    """What they print, when all end well."""
    printed = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(printed)
    return printed[0]


def left_by(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint and of the exported model."""
    checkpoints = Checkpoints(run / "checkpoints")
    checkpoints.load(newest(run))  # whole
    exported = load_file(run / "model/model.safetensors")
    return {**checkpoints.tensors(newest(run)), **{f"exported/{name}": value for name, value in exported.items()}}


def assert_nothing_lost(run: Path, straight: Path) -> None:
    """The run ended where one that met no fault ended, bit for bit, and its log has the same lines."""
    one, other = left_by(run), left_by(straight)
    assert newest(run) == newest(straight)
    assert one.keys() == other.keys()
    assert not (different := [name for name in one if not torch.equal(one[name], other[name])]), different
    assert not [path.name for path in run.rglob(".*.tmp*")], "half-written files are left"
    logs = [(folder / "log.jsonl").read_text().count('"step"') for folder in (run, straight)]
    assert logs[0] == logs[1]
