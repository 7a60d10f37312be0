"""CPU threads of torch for ``run.threads=auto``: no more than there are idle cores.

Threads of one operation wait for the slowest, so on a core that others use too each operation takes as long as those
others let it: two threads on two shared cores can be twenty times slower than one. Hence

    one process           threads = max(1, round(cores - load)), at most $OMP_NUM_THREADS
    P processes a machine  threads = max(1, cores // P)

cores: physical ones this process may use (its affinity, and its cgroup's CPU quota); load: those that others keep busy,
by the machine's load average of the last minute. A run that goes on takes the number it began with, because its bits
depend on it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

CPU = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def choose_threads(wanted: int | str, run_dir: str | Path) -> tuple[int, str]:
    """(number of threads, one line that says why) for ``run.threads`` = ``wanted``."""
    if isinstance(wanted, int):
        return wanted, f"CPU threads: {wanted} (run.threads)"
    if began := _stored(Path(run_dir)):
        return began, f"CPU threads: {began} (run.threads=auto: as this run began)"
    cores, processes = usable_cores(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1:
        count = max(1, cores // processes)
        return count, f"CPU threads: {count} a process (run.threads=auto: {cores} cores, {processes} processes)"
    load = _load()
    count = max(1, min(round(cores - load), int(os.environ.get("OMP_NUM_THREADS") or cores)))
    return count, f"CPU threads: {count} (run.threads=auto: {cores} cores, {load:.1f} busy)"


def usable_cores() -> int:
    """Physical cores this process may use, at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    try:
        cores = len({(CPU / f"cpu{n}/topology/thread_siblings_list").read_text() for n in allowed})
    except OSError:
        cores = len(allowed)
    try:
        quota, period = QUOTA.read_text().split()
        cores = min(cores, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        pass
    return max(1, cores)


def _load() -> float:
    """Cores of ours that others keep busy, if the load is spread evenly over the machine."""
    try:
        return os.getloadavg()[0] * usable_cores() / (os.cpu_count() or 1)
    except OSError:
        return 0.0


def _stored(run_dir: Path) -> int | None:
    """The number in the newest checkpoint of the run, None if there is none to read."""
    for file in sorted(run_dir.glob("checkpoints/step_*/state.json"), reverse=True):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = content.get("values", content)["config"]["run"]["threads"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        return found if isinstance(found, int) and found > 0 else None
    return None
