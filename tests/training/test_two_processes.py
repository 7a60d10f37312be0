"""Two real processes that share the micro-batches of each step train what one process trains."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_world
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmprime.training.checkpoint import Checkpoints
from mmprime.training.distributed import World
from mmprime.training.trainer import Trainer

TESTS = Path(__file__).resolve().parents[1]


def run_two(root: Path, names: tuple[str, ...], code: int = 0) -> list[str]:
    """The named runs in ``root/two`` by two processes that end with this exit code; what each wrote to stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "ranks_world.py"), str(root / "two"), str(root / "shards"), *names]
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "PYTHONPATH": paths, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [worker.communicate(timeout=600)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [code, code], "\n".join(errors)
    assert all(f"run {names[-1]}\n" in error for error in errors), "\n".join(errors)
    return errors


class Alone:
    """The runs of one process, each trained once; ``root`` holds the image ``shards``."""

    def __init__(self, root: Path) -> None:
        self.root, self.done = root, dict[str, Trainer]()
        ranks_world.write_shards(root)

    def __call__(self, name: str) -> Trainer:
        name = name.partition(":")[0]
        if name not in self.done:
            one = ranks_world.trainer(name, self.root / "one", self.root / "shards", World())
            start = {key: value.clone() for key, value in one.task.modules.state_dict().items()}
            one.run()
            moved = [key for key, value in one.task.modules.state_dict().items() if not torch.equal(value, start[key])]
            assert len(moved) > len(start) / 3
            self.done[name] = one
        return self.done[name]

    def folder(self, name: str) -> Path:
        return self(name).checkpoints.directory.parent


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return Alone(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def told(alone: Alone) -> list[str]:
    """The quick runs by two processes, one of them begun from the checkpoint of one process, and those that fail."""
    begun = "validatedfsdp/checkpoints/step_00000003"
    shutil.copytree(alone.folder("validated") / "checkpoints/step_00000003", alone.root / "two/resumed" / begun)
    good = (*ranks_world.QUICK, *ranks_world.BOOKS, "resumed/validated:fsdp")
    return run_two(alone.root, (*good, "nan", "no_logits"), code=1)


@pytest.fixture(scope="module")
def two(alone: Alone, told: list[str]) -> Path:
    return alone.root / "two"


@pytest.fixture(scope="module")
def others(alone: Alone) -> Path:
    run_two(alone.root, ranks_world.OTHERS)
    return alone.root / "two"


def folder(name: str) -> str:
    return name.replace(":", "")


def stored(two: Path, name: str) -> dict[str, Tensor]:
    return Checkpoints(two / folder(name) / "checkpoints").tensors(6)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Sums of gradients differ by rounding only: after six steps no weight by more than 2e-5 + 1e-4 of itself."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if not key.startswith("rng/"):
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}")


def compare_with_one(name: str, two: Path, alone: Alone) -> None:
    """Weights, averages and moments, and what was logged."""
    assert_same(stored(two, name), alone(name).checkpoints.tensors(6))
    logs = []
    for run in (alone.folder(name), two / folder(name)):
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        names = ("loss/", "val/", "grad_norm/")
        logs.append([value for entry in entries for key, value in entry.items() if key.startswith(names)])
    assert len(logs[0]) >= 4
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


@pytest.mark.parametrize("name", ranks_world.QUICK)
def test_two_processes_end_with_the_weights_of_one(name: str, two: Path, alone: Alone) -> None:
    compare_with_one(name, two, alone)


@pytest.mark.parametrize("name", ranks_world.BOOKS)
def test_so_have_several_code_books(name: str, two: Path, alone: Alone) -> None:
    """Each book moves by what both processes saw of it: all of them are compared, and all moved."""
    compare_with_one(name, two, alone)
    levels = {"rvq": 3, "gvq": 2}[name]
    averages = [key for key in stored(two, name) if key.endswith("_codebook.embed_avg") and key.startswith("model/")]
    assert len(averages) == levels


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*ranks_world.OTHERS} - {"text:fsdp"}))
def test_two_processes_end_with_the_weights_of_one_in_every_task(name: str, others: Path, alone: Alone) -> None:
    compare_with_one(name, others, alone)


@pytest.mark.slow
def test_muon_on_shared_out_matrices_differs_by_the_rounding_of_bf16(others: Path) -> None:
    """It orthogonalizes in bf16, and adds up in another order where a matrix is shared out."""
    losses = []
    for run in ("text", "textfsdp"):
        entries = [json.loads(line) for line in (others / run / "log.jsonl").read_text().splitlines()]
        losses.append([entry["loss/model"] for entry in entries])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_parameter_no_process_has_a_gradient_for_is_left_alone(two: Path) -> None:
    torch.manual_seed(0)
    begin, end = ranks_world.PartsTask().modules.state_dict(), stored(two, "parts")
    for key in ("unused.weight", "unused.bias"):  # weight decay would have shrunk it
        assert torch.equal(end[f"model/{key}"], begin[key])
    assert not torch.equal(end["model/odd.weight"], begin["odd.weight"])
    assert not any("unused" in key and key.startswith("optimizer") for key in end)


@pytest.mark.parametrize("name", ["validated", "validated:fsdp"])
def test_validation_and_samples_are_shared_and_those_of_one_process(name: str, two: Path, alone: Alone) -> None:
    runs = alone.folder("validated"), two / folder(name)
    found = []
    for run in runs:
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        found.append([entry for entry in entries if entry["kind"] == "validate"])
    assert [entry["step"] for entry in found[0]] == [0, 3, 6]
    first = [{name: value for name, value in entries[0].items() if name != "seconds"} for entries in found]
    assert len(first[0]) > 10
    assert first[0] == first[1]  # of equal weights: bit for bit
    samples = [load_file(run / "samples/step_00000003.safetensors")["codes"] for run in runs]
    assert len(samples[0]) == 16
    assert torch.equal(*samples)


def test_weights_that_are_shared_out_are_stored_by_all_and_continued_by_one(two: Path, tmp_path: Path) -> None:
    checkpoints = two / "validatedfsdp/checkpoints"
    files = {path.name: path for path in checkpoints.glob("step_00000003/*")}
    shards = [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    assert files.keys() == {"manifest.json", "state.json", *shards}
    sizes = [files[name].stat().st_size for name in shards]
    assert max(sizes) < 1.5 * min(sizes)
    shutil.copytree(checkpoints / "step_00000003", tmp_path / "validated/checkpoints/step_00000003")
    one = ranks_world.trainer("validated", tmp_path, tmp_path, World())
    assert one.at.step == 3
    one.run()
    assert_same(one.checkpoints.tensors(6), stored(two, "validated:fsdp"))


def test_a_missing_shard_is_told_and_the_checkpoint_before_it_taken(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "validatedfsdp/checkpoints", tmp_path / "checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest().step == 6
    (checkpoints.path(6) / "shard-00002-model-00001-of-00001.safetensors").unlink()
    newest = checkpoints.newest()
    assert newest.step == 3
    assert "shard-00002-model-00001-of-00001.safetensors differs from the recorded" in newest.damaged[6]


def test_two_processes_share_out_the_checkpoint_of_one(two: Path, alone: Alone) -> None:
    log = (two / "resumed/validatedfsdp/log.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in log} == {6}
    assert_same(stored(two / "resumed", "validated:fsdp"), alone("validated").checkpoints.tensors(6))


@pytest.mark.parametrize("name", ["nan", "no_logits"])
def test_a_loss_that_is_not_finite_on_one_process_stops_all_before_the_step(name: str, told: list[str]) -> None:
    errors = [each.partition(f"run {name}\n")[2].partition("run ")[0] for each in told]
    assert "NonFiniteLoss: step 2: gradient (head nan), or the loss of another process, is not finite" in errors[0]
    assert "NonFiniteLoss: step 2: loss is not finite; batch saved in" in errors[1]
    assert all("goes on from the finite checkpoint of step 1" in error for error in errors)
