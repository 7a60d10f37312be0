"""Two real processes that share the micro-batches of each step train what one process trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_world
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmprime.training.distributed import World

TESTS = Path(__file__).resolve().parents[1]


def start_two(root: Path, names: tuple[str, ...]) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "ranks_world.py"), str(root / "two"), str(root / "shards"), *names]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "PYTHONPATH": paths, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def train_by_two(root: Path, names: tuple[str, ...]) -> Path:
    """``root`` with image ``shards`` and, in ``two``, the named runs by two processes."""
    ranks_world.write_shards(root)
    for worker in start_two(root, names):
        _, errors = worker.communicate(timeout=600)
        assert worker.returncode == 0, errors
    return root


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_by_two(tmp_path_factory.mktemp("quick"), ranks_world.QUICK)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_by_two(tmp_path_factory.mktemp("others"), ranks_world.OTHERS)


def stored(root: Path, name: str) -> dict[str, Tensor]:
    return load_file(root / "two" / name / "checkpoints/step_00000006/state.safetensors")


def compare_with_one(name: str, root: Path, directory: Path) -> None:
    """Sums of gradients differ by rounding only: after six steps no weight by more than 2e-5 + 1e-4 of itself."""
    one = ranks_world.trainer(name, directory, root / "shards", World())
    start = {key: value.clone() for key, value in one.task.modules.state_dict().items()}
    one.run()
    two, logs = stored(root, name), []
    moved = [key for key, value in one.task.modules.state_dict().items() if not torch.equal(value, start[key])]
    assert len(moved) > len(start) / 3
    for key, value in one.task.modules.state_dict().items():
        torch.testing.assert_close(two[f"model/{key}"], value, rtol=1e-4, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}")
    for run in (directory / name, root / "two" / name):
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        names = ("loss/", "val/", "grad_norm/")
        logs.append([value for entry in entries for key, value in entry.items() if key.startswith(names)])
    assert len(logs[0]) >= 4
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


@pytest.mark.parametrize("name", ranks_world.QUICK)
def test_two_processes_end_with_the_weights_of_one(name: str, quick: Path, tmp_path: Path) -> None:
    compare_with_one(name, quick, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ranks_world.OTHERS)
def test_two_processes_end_with_the_weights_of_one_in_every_task(name: str, others: Path, tmp_path: Path) -> None:
    compare_with_one(name, others, tmp_path)


def test_a_parameter_no_process_has_a_gradient_for_is_left_alone(quick: Path) -> None:
    torch.manual_seed(0)
    begin, end = ranks_world.PartsTask().modules.state_dict(), stored(quick, "parts")
    for key in ("unused.weight", "unused.bias"):  # weight decay would have shrunk it
        assert torch.equal(end[f"model/{key}"], begin[key])
    assert not torch.equal(end["model/odd.weight"], begin["odd.weight"])
    assert not any("unused" in key and key.startswith("optimizer") for key in end)


def test_validation_and_samples_are_shared_and_those_of_one_process(quick: Path, tmp_path: Path) -> None:
    ranks_world.trainer("validated", tmp_path, quick / "shards", World()).run()
    folders = tmp_path / "validated", quick / "two/validated"
    found = []
    for folder in folders:
        entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        found.append([entry for entry in entries if entry["kind"] == "validate"])
    assert [entry["step"] for entry in found[0]] == [0, 3, 6]
    first = [{name: value for name, value in entries[0].items() if name != "seconds"} for entries in found]
    assert len(first[0]) > 10
    assert first[0] == first[1]  # of equal weights: bit for bit
    one, two = (load_file(folder / "samples/step_00000003.safetensors")["codes"] for folder in folders)
    assert len(one) == 16
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["nan", "no_logits"])
def test_a_loss_that_is_not_finite_on_one_process_stops_all_before_the_step(name: str, tmp_path: Path) -> None:
    errors = []
    for worker in start_two(tmp_path, (name,)):
        errors.append(worker.communicate(timeout=600)[1])
        assert worker.returncode == 1
    assert "NonFiniteLoss: step 2: gradient (head nan), or the loss of another process, is not finite" in errors[0]
    assert "NonFiniteLoss: step 2: loss is not finite; batch saved in" in errors[1]
    assert all("goes on from the finite checkpoint of step 1" in error for error in errors)
