"""Which examples a step sees: a pure function of (seed, step), so the data position of a run *is* its step.

Position p of the endless stream is example ``perm_e[p mod n]`` of epoch ``e = p div n``, where ``perm_e`` is a
permutation of the n examples drawn from (seed, e) alone. A step takes ``accumulate`` micro-batches of ``batch``
consecutive positions. Processes share out whole micro-batches (rank r of W takes r, r+W, ...), and each micro-batch
has its own random generator: the run is the same function of the seed whatever the number of processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rng import generator_for


class DataOrder:
    """The order of examples of one run.

    Args:
        num_examples: n, size of the training set.
        batch: examples in a micro-batch.
        accumulate: micro-batches in a step, over all processes together.
        seed: seed of the run.
        rank, world: this process and the number of processes; ``world`` must divide ``accumulate``.
        streamed: indices are the positions themselves; the task's stream knows the examples.

    Raises:
        ValueError: an empty training set, or micro-batches that cannot be shared out evenly.
    """

    def __init__(
        self,
        num_examples: int,
        batch: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        streamed: bool = False,
    ) -> None:
        if num_examples < 1:
            raise ValueError(f"the training set has {num_examples} examples; check data.path and the split")
        if batch < 1 or accumulate < 1:
            raise ValueError(f"train.batch={batch} and train.accumulate={accumulate} must be at least 1")
        if accumulate % world:
            raise ValueError(
                f"train.accumulate={accumulate} micro-batches cannot be shared by {world} processes; "
                f"use a multiple of {world}, e.g. train.accumulate={world} train.batch={max(1, batch // world)}"
            )
        self.num_examples, self.batch, self.accumulate = num_examples, batch, accumulate
        self.seed, self.rank, self.world, self.streamed = seed, rank, world, streamed
        self._epochs: dict[int, Tensor] = {}

    @property
    def samples_per_step(self) -> int:
        """Examples one optimizer step sees, over all processes."""
        return self.batch * self.accumulate

    def permutation(self, epoch: int) -> Tensor:
        """The (n,) int64 order of one epoch; the last two are remembered."""
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            generator = generator_for("cpu", self.seed, "epoch", epoch)
            self._epochs[epoch] = torch.randperm(self.num_examples, generator=generator)
        return self._epochs[epoch]

    def indices(self, step: int, micro: int = 0) -> Tensor:
        """The (batch,) int64 examples (or positions) of micro-batch ``micro`` of ``step`` (steps count from 0)."""
        first = (step * self.accumulate + micro) * self.batch
        if self.streamed:
            return torch.arange(first, first + self.batch)
        position, last, parts = first, first + self.batch, []
        while position < last:
            epoch, offset = divmod(position, self.num_examples)
            parts.append(self.permutation(epoch)[offset : offset + last - position])
            position += len(parts[-1])
        return torch.cat(parts)

    def own_micro_batches(self) -> range:
        """The micro-batch numbers that this process computes at each step."""
        return range(self.rank, self.accumulate, self.world)
