"""Where a start begins: at the newest whole checkpoint, at step 0 of an empty folder, or not at all.

A folder that held checkpoints of which none can be read is never begun anew unasked.
"""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Checkpoints, Newest
from .lock import RunBusy


def find_start(checkpoints: Checkpoints, mode: str, directory: Path) -> tuple[Newest, list[str]]:
    """What to go on from (no state: step 0), and lines that say what is odd about it.

    ``mode`` is ``run.resume``. Raises ValueError where it forbids what stands in ``directory``, and where a run stood
    there of which no checkpoint can be read.
    """
    newest = checkpoints.newest()
    reasons = list(newest.damaged.values())
    if newest.state is not None:
        if mode == "never":
            raise ValueError(
                f"run.resume=never, but {directory} holds a run at step {newest.step}; take another run.dir"
            )
        return newest, [f"{reason}; going back to step {newest.step}" for reason in reasons]
    why = reasons[0] if reasons else f"{checkpoints.directory} has none"
    if mode == "must":
        raise ValueError(f"run.resume=must, but {checkpoints.directory} has no readable checkpoint: {why}")
    finished = (directory / "model" / "training.json").exists()
    if mode == "auto" and (checkpoints.has_remains() or finished):
        raise ValueError(
            f"{directory} holds a run but no checkpoint that can be read ({why}); nothing was changed. Put a "
            "checkpoint back, or begin again at step 0 by run.resume=never or another run.dir"
        )
    if mode == "never" and reasons:
        return newest, [f"{reason}; beginning at step 0 (run.resume=never)" for reason in reasons]
    if (directory / "log.jsonl").exists():
        return newest, [f"{directory} has a log but no checkpoint was saved yet: beginning at step 0"]
    return newest, []


def clear_the_way(checkpoints: Checkpoints, newest: Newest) -> list[str]:
    """Set aside the checkpoints that cannot be read; returns a line for each. Only the holder of the lock may do so.

    Raises RunBusy if the folder has moved on since ``newest`` was read.
    """
    later = [step for step in checkpoints.steps() if step > newest.step]
    if set(later) - set(newest.damaged):
        raise RunBusy(f"another process has trained in {checkpoints.directory.parent} meanwhile; start again")
    return [f"set aside as {checkpoints.set_aside(step, 'damaged')}" for step in later]
