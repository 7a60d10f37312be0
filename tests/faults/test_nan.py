"""A loss that is not finite in one of two processes, and the run after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import ranks_world

from mmprime.training.distributed import World

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from test_two_processes import assert_same, run_two


@pytest.mark.slow
def test_a_nan_in_one_process_stops_both_and_the_run_goes_on_from_before_it(tmp_path: Path) -> None:
    """At step 2, in the second process; what caused it is gone where one process goes on."""
    errors = run_two(tmp_path, ("nan",), code=1)
    assert all("the next start goes on from the finite checkpoint of step 1" in error for error in errors)
    batch = tmp_path / "two/nan/nonfinite_step2_rank1.safetensors"
    assert batch.exists()
    again = ranks_world.trainer("nan", tmp_path / "two", tmp_path, World())
    assert again.at.step == 1
    straight = ranks_world.trainer("nan", tmp_path / "one", tmp_path, World())
    for trainer in (again, straight):
        trainer.run()
    assert_same(again.checkpoints.tensors(6), straight.checkpoints.tensors(6))
