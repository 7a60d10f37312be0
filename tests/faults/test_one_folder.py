"""Two runs in one folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from faults_world import TOY, assert_nothing_lost, finish, train, wait_for

SETTINGS = [*TOY, "train.steps=60", "train.save_every=3"]


@pytest.mark.slow
def test_of_two_runs_in_one_folder_one_is_refused_and_the_other_undisturbed(tmp_path: Path) -> None:
    """Begun together, and one while the other trains; with the same config and with another seed."""
    run = tmp_path / "run"
    together = [train(run, *SETTINGS), train(run, *SETTINGS)]
    while all(process.poll() is None for process in together):
        time.sleep(0.01)
    refused, kept = sorted(together, key=lambda process: process.poll() is None)
    printed, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2, printed
    assert f"another process is training in {run}; stop it or take another run.dir" in printed
    wait_for(run, 6, kept)
    if kept.poll() is None:
        late = train(run, *SETTINGS, "run.seed=1")
        printed, _ = late.communicate(timeout=300)
        assert late.returncode == 2, printed
    finish(kept)
    finish(train(tmp_path / "straight", *SETTINGS))
    assert_nothing_lost(run, tmp_path / "straight")
