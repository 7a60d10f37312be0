"""Two processes under torchrun, one or all of them killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from faults_world import TOY, assert_nothing_lost, children, ended, finish, newest, torchrun, wait_for

STEPS, KILLS = 240, 10


def kill_at_random(process: subprocess.Popen[str], run: Path, chance: random.Random) -> str:
    """kill -9 one of the two, or both and torchrun; which. They may still import, or be in a step or a save."""
    if chance.random() < 0.1:
        while len(children(process.pid)) < 2:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 5))
    else:
        wait_for(run, newest(run) + chance.randint(1, 8), process)
        time.sleep(chance.uniform(0, 0.1))
    ranks, which = children(process.pid), chance.choice(("0", "1", "all"))
    assert len(ranks) == 2, process.communicate(timeout=60)[0]
    for pid in [*ranks, process.pid] if which == "all" else [ranks[int(which)]]:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=120)  # the other one does not wait for ever
    assert process.returncode == (-signal.SIGKILL if which == "all" else 1)
    assert all(map(ended, ranks))
    return which


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ten_random_kills_lose_nothing(parallel: str, tmp_path: Path) -> None:
    """Prints the seed, and of each kill who it hit and the newest checkpoint then."""
    settings = [*TOY, f"train.steps={STEPS}", "train.save_every=1", f"run.parallel={parallel}"]
    seed, run, kills = time.time_ns(), tmp_path / "killed", []
    chance = random.Random(seed)
    for _ in range(KILLS):
        before = newest(run)
        which = kill_at_random(torchrun(run, *settings), run, chance)
        assert newest(run) >= before, "a kill lost a checkpoint"
        kills.append(f"{which}@{newest(run)}")
    print(f"{parallel}, seed {seed}: killed {', '.join(kills)}")
    assert "resuming" in finish(torchrun(run, *settings))
    finish(torchrun(tmp_path / "straight", *settings))
    assert_nothing_lost(run, tmp_path / "straight")
