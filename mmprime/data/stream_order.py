"""Which example stands where in an endless stream, of any data set: a function of (seed, position), in bounded memory.

Position p of the stream lies in epoch e = p div n and, as a step is A micro-batches of B examples, in lane
m = (p div B) mod A. In epoch e

    the shards are permuted by (seed, e) and their examples laid end to end
    lane m gets a contiguous part of them, as long as the number of its positions in the epoch
    the part is cut into windows of W, and each is permuted by (seed, e, m, window)

So every example comes once in each epoch, a process that computes some of the lanes reads their shards only, and the
order knows nothing of processes, threads or what was read before. Examples of one window mix: a shard in the order of
classes needs windows of many shards, or to be shuffled when it is written, as `mmprime prepare codes` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from mmprime.engine import generator_of

from .shards import digest


def permutation(count: int, *parts: int | str) -> Tensor:
    """A permutation of [0, count), int64, drawn from the parts alone."""
    seed = int(digest(*(str(part) for part in parts))[:16], 16)
    return torch.randperm(count, generator=generator_of(seed))


@dataclass(frozen=True, order=True)
class ShuffleWindow:
    """A window of one lane: `first` is its first example in the order of its epoch, `size` its length."""

    lane: int
    epoch: int
    number: int
    first: int = field(compare=False)
    size: int = field(compare=False)


@dataclass(frozen=True)
class StreamOrder:
    """sizes: examples of each shard; batch, lanes: B and A; window: W, examples of a lane that are permuted together.

    Raises ValueError when there are no examples.
    """

    sizes: tuple[int, ...]
    batch: int
    lanes: int
    window: int
    seed: int

    def __post_init__(self) -> None:
        if sum(self.sizes) < 1 or min(self.batch, self.lanes, self.window) < 1:
            raise ValueError(f"a stream of {sum(self.sizes)} examples, {self.batch} × {self.lanes} a step, has none")

    @property
    def num_examples(self) -> int:
        """n, the examples of an epoch."""
        return sum(self.sizes)

    def locate(self, position: int) -> tuple[ShuffleWindow, int]:
        """The window of a position, and the rank of the position in it."""
        epoch, lane = position // self.num_examples, position // self.batch % self.lanes
        number, rank = divmod(self._before(lane, position) - self._before(lane, self._begin(epoch)), self.window)
        return self._window(lane, epoch, number), rank

    def runs(self, positions: Sequence[int]) -> Iterator[tuple[ShuffleWindow, int, int]]:
        """The positions, in their order, as (window, first rank in it, how many)."""
        at = 0
        while at < len(positions):
            first = positions[at]
            window, rank = self.locate(first)
            most = min(len(positions) - at, self.batch - first % self.batch, window.size - rank)
            count = next((i for i in range(1, most) if positions[at + i] != first + i), most)
            yield window, rank, count
            at += count

    def following(self, window: ShuffleWindow) -> ShuffleWindow:
        """The window that its lane comes to next."""
        if (window.number + 1) * self.window < self._count(window.lane, window.epoch):
            return self._window(window.lane, window.epoch, window.number + 1)
        epoch = window.epoch + 1
        while not self._count(window.lane, epoch):
            epoch += 1
        return self._window(window.lane, epoch, 0)

    def mixed(self, window: ShuffleWindow) -> Tensor:
        """The permutation of a window, (size,) int64."""
        return permutation(window.size, self.seed, "window", window.epoch, window.lane, window.number)

    def shards(self, epoch: int) -> tuple[list[int], list[int]]:
        """The shards of an epoch in its order, and where each ends in it."""
        return _shards(self, epoch)

    def _window(self, lane: int, epoch: int, number: int) -> ShuffleWindow:
        begin = number * self.window
        start = sum(self._count(other, epoch) for other in range(lane))
        return ShuffleWindow(lane, epoch, number, start + begin, min(self.window, self._count(lane, epoch) - begin))

    def _begin(self, epoch: int) -> int:
        return epoch * self.num_examples

    def _count(self, lane: int, epoch: int) -> int:
        """Positions of a lane in an epoch."""
        return self._before(lane, self._begin(epoch + 1)) - self._before(lane, self._begin(epoch))

    def _before(self, lane: int, position: int) -> int:
        """Positions of a lane before a position."""
        steps, rest = divmod(position, self.batch * self.lanes)
        return steps * self.batch + min(max(rest - lane * self.batch, 0), self.batch)


@lru_cache(maxsize=4)
def _shards(order: StreamOrder, epoch: int) -> tuple[list[int], list[int]]:
    listed = permutation(len(order.sizes), order.seed, "shards", epoch).tolist()
    return listed, list(accumulate(order.sizes[number] for number in listed))
