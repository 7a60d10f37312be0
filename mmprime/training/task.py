"""What the Trainer can train: a model, its data and its losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .distributed import World
from .log import numbers

LossTerm = tuple[str, Tensor, dict[str, float]]
"""(name of the parameter group, scalar loss, numbers to log)."""


class Task(ABC):
    """A model, its data and its losses.

    num_examples: the Trainer draws indices in [0, num_examples). streamed: it gives positions of an endless stream
    instead, and the task knows which examples stand there. best_metric: the key of `validate` that is minimised.
    modules: everything with weights; its state_dict is checkpointed. notices: lines printed before training.
    reaches_all: whether each loss of a group reaches all parameters of it. world: the processes of the run, set by the
    Trainer; all of them validate and sample, and may share it out.
    """

    name: str
    num_examples: int
    streamed: bool = False
    best_metric: str
    modules: nn.Module
    notices: Sequence[str] = ()
    reaches_all: bool = False
    world: World = World()

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by group; each group has an optimizer."""

    @abstractmethod
    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Iterator[LossTerm]:
        """Losses on the examples ``indices`` (B,), one at a time; each reaches only the parameters of its group.

        Which groups have a loss is a matter of ``step`` alone. All groups step when the micro-batches of the step are
        through. Draw from ``generator`` (on the CPU) only.
        """

    @abstractmethod
    def validate(self, generator: torch.Generator) -> dict[str, float]:
        """Numbers on held-out data, the same in all processes; called with averaged weights, in eval mode, without
        gradients."""

    @abstractmethod
    def write_samples(self, directory: Path, step: int) -> None:
        """Pictures or text made by the averaged weights, as files in ``directory``, which process 0 writes."""

    @abstractmethod
    def export(self, directory: Path) -> None:
        """The model directory a user loads, from the averaged weights."""

    def hidden_matrices(self) -> list[nn.Parameter]:
        """What ``train.optimizer=muon`` is for."""
        return []

    def layers(self) -> list[nn.Module]:
        """Parts of `modules` that are computed one after another and may be shared out one by one; none: not at all."""
        return []

    def unequal_passes(self) -> str:
        """Why one micro-batch may take more passes through the layers than another; empty: it never does."""
        return ""

    def after_step(self) -> None:  # noqa: B027
        """Called by all processes after each step of the optimizers, e.g. to move a code book."""

    def inspect(self, indices: Tensor) -> dict[str, Tensor]:
        """What to save of the examples when a loss is not finite."""
        return {}

    def fingerprint(self) -> dict[str, str]:
        """Hashes of what is learned from, by the config key that names it."""
        return {}

    def report(self, metrics: dict[str, float], step: int) -> str:
        """The line printed after a validation."""
        return numbers(metrics)

    def conclude(self, metrics: dict[str, float]) -> str:
        """What is printed when training is over; empty: nothing."""
        return ""
