"""What a piece of work costs this process: CPU seconds, and how far it raises the peak of resident memory (Linux)."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

Work = Callable[[], object]


class Case(NamedTuple):
    """Somebody's work beside ours; examples: how many the seconds are divided by."""

    about: tuple[str, ...]
    theirs: Work
    ours: Work
    repeats: int = 1
    examples: int = 1


def peak_resident() -> float:
    """The most MB this process has held (Linux; the high-water mark of getrusage would be its parent's too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cost(work: Work) -> tuple[float, float]:
    """CPU seconds, and MB above what was held before."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work left goes back
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before, start = peak_resident(), time.process_time()
    work()
    return time.process_time() - start, peak_resident() - before


def in_turns(works: Sequence[Work], repeats: int) -> list[list[tuple[float, float]]]:
    """Costs of some works, each run `repeats` times, one after the other in turns, after a turn to warm up."""
    turns = [[cost(work) for work in works] for _ in range(repeats + 1)]
    return [list(costs) for costs in zip(*turns[1:])]
