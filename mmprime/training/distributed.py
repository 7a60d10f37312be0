"""Several processes (torchrun; gloo on CPU, nccl on GPUs) that train as one.

All begin with the same weights and stay equal: ``parallel`` gives each the gradient of the whole step. What else a step
changes (a code book) is the task's ``after_step`` to make equal.

``run.threads=auto`` takes no more threads than there are idle cores. Threads of one operation wait for the slowest, so
on a core that others use too each operation takes as long as those others let it: two threads on two shared cores can
be twenty times slower than one. Hence

    one process           threads = max(1, round(cores - load)), at most $OMP_NUM_THREADS
    P processes a machine  threads = max(1, cores // P)

cores: physical ones this process may use (its affinity, and its cgroup's CPU quota); load: those that others keep busy,
by the machine's load average of the last minute. A run that goes on takes the number it began with, because its bits
depend on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmprime.io import bar

CPU = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process among all; ``World()`` is a process alone, and each method is then free."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None  # None: the one of torch.distributed

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def apart(self) -> World:
        """The same processes with messages of their own on the CPU, for another thread."""
        if self.size == 1:
            return self
        return replace(self, group=dist.new_group(backend="gloo"))  # type: ignore[arg-type]

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of process 0."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0, self.group)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over processes."""
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def gather(self, value: Value) -> list[Value]:
        """A small ``value`` of every process, in rank order."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, self.group)
        return values

    def from_main(self, work: Callable[[], Value]) -> Value:
        """What ``work`` gives in process 0, for all; what it raises there is raised by all."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, 0, self.group)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def share(self, work: Callable[[int], Value], count: int, what: str = "") -> list[Value]:
        """``work(0)`` … ``work(count - 1)``, each done by one process, for all; with a bar that says ``what``."""
        numbers = bar(range(self.rank, count, self.size), what, "batch", self.is_main and bool(what))
        mine = [work(number) for number in numbers]
        parts = self.gather(mine)
        return [parts[number % self.size][number // self.size] for number in range(count)]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier(self.group)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Process 0 runs the block before the others (it writes a cache, they read it)."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()


def start(device: torch.device) -> World:
    """Join the processes torchrun started, or be alone if there is no ``WORLD_SIZE`` in the environment."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size())


def stop(world: World) -> None:
    """Leave the group that :func:`start` joined, together: a process that leaves early can abort its peers."""
    if world.size > 1 and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


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
            threads = content.get("values", content)["config"]["run"]["threads"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        return threads if isinstance(threads, int) and threads > 0 else None
    return None
