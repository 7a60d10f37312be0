"""The disk gets full while a run saves: a real small one, and a limit on the files of one of two processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_world import TOY, assert_nothing_lost, finish, newest, pair, train, wait_for

from mmprime.training.checkpoint import Checkpoints

SETTINGS = [*TOY, "train.steps=60", "train.save_every=3"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB: some five checkpoints of the toy."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24M", "faults", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    run = small_disk / "run"
    process = train(run, *SETTINGS)
    wait_for(run, 6, process)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(24 << 20))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 3, printed
    assert "No space left on device" in printed
    assert "free some space or write to another place, then give the same command again" in printed
    kept = newest(run)
    assert 6 <= kept < 60
    Checkpoints(run / "checkpoints").load(kept)  # whole
    again = train(run, *SETTINGS)  # still full
    printed, _ = again.communicate(timeout=300)
    assert (again.returncode, newest(run)) == (3, kept), printed
    (small_disk / "ballast").unlink()
    print(f"full after step {kept}: {printed.splitlines()[-1]}")
    assert f"at step {kept} of 60" in finish(train(run, *SETTINGS))
    finish(train(tmp_path / "straight", *SETTINGS))
    assert_nothing_lost(run, tmp_path / "straight")


@pytest.mark.slow
def test_no_room_for_the_part_of_one_of_two_processes(tmp_path: Path) -> None:
    """From some step on the second one may not write files of more than 1,000 bytes (setrlimit)."""
    run, settings = tmp_path / "run", [*SETTINGS, "run.parallel=fsdp"]
    processes = pair(run, *settings)
    wait_for(run, 6, processes[0])
    resource.prlimit(processes[1].pid, resource.RLIMIT_FSIZE, (1000, 1000))
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [3, 3], printed
    assert all("error: [Errno 27] process 1: File too large: " in each.splitlines()[-1] for each in printed), printed
    kept = newest(run)
    assert 6 <= kept < 60
    Checkpoints(run / "checkpoints").load(kept)
    print(f"no room after step {kept}: {printed[0].splitlines()[-1]}")
    assert f"at step {kept} of 60" in finish(*pair(run, *settings))
    finish(*pair(tmp_path / "straight", *settings))
    assert_nothing_lost(run, tmp_path / "straight")


@pytest.mark.slow
def test_a_process_that_is_alone_says_why_it_ends(tmp_path: Path) -> None:
    """Without torchrun: the one that is left is told by the connection, and says what to do."""
    processes = pair(tmp_path / "run", *TOY, "train.steps=2000", "train.save_every=3")
    wait_for(tmp_path / "run", 6, processes[0])
    processes[1].send_signal(signal.SIGKILL)
    printed, _ = processes[0].communicate(timeout=120)
    processes[1].communicate()
    assert processes[0].returncode == 1, printed
    assert "another process of this run has ended" in printed.splitlines()[-1]
    assert "this is a bug of mmprime" not in printed
