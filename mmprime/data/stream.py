"""Examples of a data set of any size, in the order of `StreamOrder`, read ahead by threads.

    shards -> blocks (read one after another)  -> window of a lane (held)  -> batch, decoded

Held are, for each lane that is asked for, the window in use and the next one; and a few batches that are decoded ahead.
A shard that cannot be read, after its retries, ends the run, or is skipped while the budget lasts: the examples of the
next good shard of the epoch then stand in its place, and a line says so.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mmprime.io import warn

from .stream_order import ShuffleWindow, StreamOrder

Batch = TypeVar("Batch", covariant=True)


class Source(Protocol[Batch]):
    """How one kind of data is read."""

    def blocks(self, entry: dict[str, Any]) -> Iterator[Any]:
        """The examples of a shard, in its order, some at a time. Raises ValueError if it cannot be read."""

    def join(self, blocks: list[Any]) -> Any:
        """Blocks as one."""

    def pick(self, block: Any, chosen: Tensor) -> Any:
        """The examples of these numbers as a block."""

    def decode(self, block: Any) -> Batch:
        """What a step computes with."""


@dataclass(frozen=True)
class Reading:
    """workers: threads that read and that decode; skip_shards: shards that may be left out, in one process."""

    workers: int = 2
    skip_shards: int = 0


class Stream(Generic[Batch]):
    """The endless stream; :meth:`batch` is the only way to its examples.

    shards: index entries, one for each size of the order. Threads start with the first batch.
    """

    def __init__(
        self, source: Source[Batch], shards: list[dict[str, Any]], order: StreamOrder, reading: Reading | None = None
    ) -> None:
        self.source, self.order, self.reading = source, order, reading or Reading()
        self.meter = LoaderMeter()
        self._reader = _Shards(source, shards, order, self.reading.skip_shards)
        self._lanes: dict[int, _Lane] = {}
        self._windows: dict[ShuffleWindow, Future[Any]] = {}
        self._ahead: dict[tuple[int, int], Future[Batch]] = {}
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(self.reading.workers, "shards")
        self._decoders = ThreadPoolExecutor(self.reading.workers, "batches")

    def batch(self, positions: Tensor) -> Batch:
        """The decoded examples at these positions (B,), in their order. Raises ValueError for what cannot be read."""
        began = time.monotonic()
        first, count = int(positions[0]), len(positions)
        made = self._ahead.pop((first, count), None)
        if made is None or not _consecutive(positions):
            made = self._decoders.submit(self._make, positions.tolist())
        batch = made.result()
        window, _ = self.order.locate(first)
        self._forget(window)
        self._window(self.order.following(window))
        self._look_ahead(positions)
        self.meter.waited(time.monotonic() - began)
        return batch

    def head(self, count: int) -> Any:
        """The first `count` examples of the first epoch before any is mixed, as a block; all if there are fewer."""
        lane = _Lane(self._reader)
        return lane.read(ShuffleWindow(0, 0, 0, 0, min(count, self.order.num_examples)))

    def close(self) -> None:
        """Stop the threads; what they read is dropped."""
        self._readers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)

    def _make(self, positions: list[int]) -> Batch:
        parts = []
        for window, rank, count in self.order.runs(positions):
            block = self._window(window).result()
            parts.append(self.source.pick(block, self.order.mixed(window)[rank : rank + count]))
        return self.source.decode(parts[0] if len(parts) == 1 else self.source.join(parts))

    def _window(self, window: ShuffleWindow) -> Future[Any]:
        with self._lock:
            if window not in self._windows:
                lane = self._lanes.setdefault(window.lane, _Lane(self._reader))
                self._windows[window] = self._readers.submit(lane.read, window)
            return self._windows[window]

    def _forget(self, window: ShuffleWindow) -> None:
        """Drop what the lane of `window` has passed, and what it would come to after a leap back."""
        with self._lock:
            last = self.order.following(self.order.following(window))
            for other in [w for w in self._windows if w.lane == window.lane and not window <= w <= last]:
                del self._windows[other]

    def _look_ahead(self, positions: Tensor) -> None:
        """Begin the next batches of the lane: those of the steps to come."""
        if not _consecutive(positions) or len(positions) != self.order.batch:
            return
        for step in range(1, min(self.reading.workers, max(1, self.order.window // self.order.batch)) + 1):
            later = positions + step * self.order.batch * self.order.lanes
            key = (int(later[0]), len(later))
            if key not in self._ahead:
                self._ahead[key] = self._decoders.submit(self._make, later.tolist())


def _consecutive(positions: Tensor) -> bool:
    return int(positions[-1]) - int(positions[0]) == len(positions) - 1


class _Lane:
    """Reads the windows of one lane; the next one goes on where the last one ended."""

    def __init__(self, shards: _Shards) -> None:
        self.shards, self.lock = shards, threading.Lock()
        self.at: tuple[int, int] | None = None  # epoch, and example in its order
        self.blocks: Iterator[Any] = iter(())
        self.rest: Any = None

    def read(self, window: ShuffleWindow) -> Any:
        with self.lock:
            if self.at != (window.epoch, window.first):
                self.blocks, self.rest = self.shards.examples(window.epoch, window.first), None
            self.at, parts, missing = None, [], window.size
            while missing:
                block = next(self.blocks) if self.rest is None else self.rest
                taken, self.rest = block, None
                if len(block) > missing:
                    taken, self.rest = _cut(self.shards.source, block, missing)
                parts.append(taken)
                missing -= len(taken)
            self.at = (window.epoch, window.first + window.size)
            return self.shards.source.join(parts)


def _cut(source: Source[Any], block: Any, count: int) -> tuple[Any, Any]:
    return source.pick(block, torch.arange(count)), source.pick(block, torch.arange(count, len(block)))


class _Shards:
    """The shards of an epoch laid end to end, those that cannot be read replaced."""

    def __init__(self, source: Source[Any], entries: list[dict[str, Any]], order: StreamOrder, budget: int) -> None:
        self.source, self.entries, self.order, self.budget = source, entries, order, budget
        self.skipped: set[str] = set()
        self._lock = threading.Lock()

    def examples(self, epoch: int, first: int) -> Iterator[Any]:
        """Blocks from example `first` of the epoch's order on."""
        listed, ends = self.order.shards(epoch)
        number = bisect_right(ends, first)
        passed = first - (ends[number - 1] if number else 0)
        for rank in range(number, len(listed)):
            for block in self._read(listed, rank):
                if passed < len(block):
                    yield _cut(self.source, block, passed)[1] if passed else block
                passed = max(0, passed - len(block))

    def _read(self, listed: list[int], rank: int) -> Iterator[Any]:
        """The blocks of a shard, or, as many examples, of the next one that can be read."""
        missing, turned = self.order.sizes[listed[rank]], listed[rank:] + listed[:rank]
        for number in turned:
            blocks = self._opened(self.entries[number])
            while blocks is not None and missing:
                for block in blocks:
                    block = block if len(block) <= missing else _cut(self.source, block, missing)[0]
                    missing -= len(block)
                    yield block
                    if not missing:
                        return
                blocks = self._opened(self.entries[number])
        if missing:
            raise ValueError("no shard can be read")

    def _opened(self, entry: dict[str, Any]) -> Iterator[Any] | None:
        """The blocks of a shard that is whole; None if it is skipped. Raises ValueError when it may not be."""
        if entry["file"] in self.skipped:
            return None
        blocks = self.source.blocks(entry)
        try:
            first = next(blocks, None)  # opens the shard: by then its size and hash are verified
            if first is None:
                raise ValueError(f"shard {entry['file']} holds nothing")
        except ValueError as error:
            with self._lock:
                self.skipped.add(entry["file"])
                count = len(self.skipped)
            if count > self.budget:
                self.skipped.discard(entry["file"])
                hint = f"{count - 1} shards are skipped already; " if count > 1 else ""
                raise ValueError(
                    f"{error}; {hint}data.skip_shards={self.budget} lets a process do without so many"
                ) from error
            warn(
                f"{error}; skipped ({count} of at most {self.budget}): examples of another shard stand in the place of "
                f"its {entry['examples']:,}"
            )
            return None
        return _chain(first, blocks)


def _chain(first: Any, blocks: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from blocks


class LoaderMeter:
    """How long training waits for data, and a line when that is a tenth of the time or more.

    say: takes the line, at most one in `every` seconds.
    """

    def __init__(self, every: float = 60.0, say: Callable[[str], None] = warn) -> None:
        self.every, self.say = every, say
        self._last = self._sum = 0.0
        self._since: float | None = None

    def last(self) -> dict[str, float]:
        """The seconds of the last wait, as a number to log."""
        return {"loader_wait_seconds": self._last}

    def waited(self, seconds: float) -> None:
        """Count a wait that ends now. The first one does not count: nothing could be read ahead of it."""
        now, self._last = time.monotonic(), seconds
        if self._since is None:
            self._since = now
            return
        self._sum += seconds
        span = now - self._since
        if span >= self.every:
            if self._sum >= 0.1 * span:
                self.say(
                    f"the loader is the bottleneck: {100 * self._sum / span:.0f} % of the last {span:.0f} s passed "
                    "waiting for data; raise data.workers, or put the shards on a faster disk"
                )
            self._since, self._sum = now, 0.0
