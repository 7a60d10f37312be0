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


def train_by_two(root: Path, names: tuple[str, ...]) -> Path:
    """``root`` with image ``shards`` and, in ``two``, the named runs by two processes."""
    ranks_world.write_shards(root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "ranks_world.py"), str(root / "two"), str(root / "shards"), *names]
    workers = [
        subprocess.Popen(command, env={**os.environ, **shared, "PYTHONPATH": paths, "RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return root


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_by_two(tmp_path_factory.mktemp("quick"), ranks_world.QUICK)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_by_two(tmp_path_factory.mktemp("books"), ranks_world.BOOKS)


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
        logs.append([value for entry in entries for key, value in entry.items() if key.startswith("loss/")])
    assert len(logs[0]) >= 2
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


@pytest.mark.parametrize("name", ranks_world.QUICK)
def test_two_processes_end_with_the_weights_of_one(name: str, quick: Path, tmp_path: Path) -> None:
    compare_with_one(name, quick, tmp_path)


@pytest.mark.parametrize("name", ranks_world.BOOKS)
def test_so_have_several_code_books(name: str, books: Path, tmp_path: Path) -> None:
    """Each book moves by what both processes saw of it: all of them are compared, and all moved."""
    compare_with_one(name, books, tmp_path)
    levels = {"rvq": 3, "gvq": 2}[name]
    averages = [key for key in stored(books, name) if key.endswith("_codebook.embed_avg") and key.startswith("model/")]
    assert len(averages) == levels


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
