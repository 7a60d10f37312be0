"""How many CPU threads ``run.threads=auto`` takes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from mmprime.training import build, distributed
from mmprime.training.schema import Config, RunConfig


@pytest.fixture(autouse=True)
def four_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight hardware threads on four cores, no quota, no load, one process."""
    for number in range(8):
        file = tmp_path / f"cpu{number}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(f"{number % 4},{number % 4 + 4}\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(distributed, "CPU", tmp_path)
    monkeypatch.setattr(distributed, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0, 0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def chosen(wanted: int | str = "auto", directory: Path = Path("nowhere")) -> int:
    return distributed.choose_threads(wanted, directory)[0]


def test_physical_cores_that_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() == 4
    assert chosen(7) == 7
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 0, 0))  # half of the machine is busy, so half of ours
    assert chosen() == 2
    monkeypatch.setattr(os, "getloadavg", lambda: (50.0, 0, 0))
    assert chosen() == 1


def test_what_the_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5})  # two cores, each with both of its threads
    assert chosen() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert chosen() == 1
    (tmp_path / "cpu.max").unlink()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert chosen() == 3


def test_processes_share_the_cores_whatever_torchrun_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun does
    for processes, count in ((1, 1), (2, 2), (3, 1), (8, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert chosen() == count


def test_a_run_goes_on_with_the_number_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 0, 0))
    config = Config(task="toy", run=RunConfig(dir=str(tmp_path), device="cpu"))
    build.build_device(config)
    assert (config.run.threads, torch.get_num_threads()) == (3, 3)
    assert "CPU threads: 3 (run.threads=auto: 4 cores, 1.0 busy)" in capsys.readouterr().out
    for step, content in ((3, json.dumps({"config": {"run": {"threads": 3}}})), (6, "{")):
        folder = tmp_path / f"checkpoints/step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(content)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0, 0))
    assert chosen(directory=tmp_path) == 3
    assert chosen(1, tmp_path) == 1
