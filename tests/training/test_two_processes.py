"""Two real processes that share the micro-batches of each step train what one process trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_world
import torch
from safetensors.torch import load_file

from mmprime.training.distributed import World

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of the runs two processes have made, image shards)."""
    root = tmp_path_factory.mktemp("ranks")
    ranks_world.write_shards(root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "ranks_world.py"), str(root / "two"), str(root / "shards")]
    workers = [
        subprocess.Popen(command, env={**os.environ, **shared, "PYTHONPATH": paths, "RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return root / "two", root / "shards"


@pytest.mark.parametrize("name", ranks_world.RUNS)
def test_two_processes_end_with_the_weights_of_one(name: str, places: tuple[Path, Path], tmp_path: Path) -> None:
    """Sums of gradients differ by rounding only: after six steps no weight by more than 2e-5 + 1e-4 of itself."""
    two, shards = places
    one = ranks_world.trainer(name, tmp_path, shards, World())
    start = {key: value.clone() for key, value in one.task.modules.state_dict().items()}
    one.run()
    shared = load_file(two / name / "checkpoints/step_00000006/state.safetensors")
    moved = [key for key, value in one.task.modules.state_dict().items() if not torch.equal(value, start[key])]
    assert len(moved) > len(start) / 3
    for key, value in one.task.modules.state_dict().items():
        torch.testing.assert_close(shared[f"model/{key}"], value, rtol=1e-4, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_a_parameter_no_process_has_a_gradient_for_is_left_alone(places: tuple[Path, Path]) -> None:
    task = ranks_world.PartsTask()
    shared = load_file(places[0] / "parts/checkpoints/step_00000006/state.safetensors")
    for key in ("unused.weight", "unused.bias"):  # weight decay would have shrunk it
        assert torch.equal(shared[f"model/{key}"], task.modules.state_dict()[key])
    assert not any("unused" in key and key.startswith("optimizer") for key in shared)
