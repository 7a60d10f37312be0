"""What the Trainer can train: anything with these members (a Protocol; nothing needs to be inherited)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

LossTerm = tuple[str, Tensor, dict[str, float]]
"""(name of the parameter group, scalar loss, numbers to log)."""


@runtime_checkable
class Task(Protocol):
    """A model, its data and its losses.

    Optional members the Trainer uses where present: ``report(metrics, step) -> str`` (the line printed after a
    validation), ``inspect(indices) -> dict[str, Tensor]`` (what to save when a loss is not finite),
    ``hidden_matrices() -> list[Parameter]`` (what ``train.optimizer=muon`` is for),
    ``after_step()`` (called by all processes after each step of the optimizers, e.g. to move a code book),
    ``fingerprint() -> dict[str, str]`` (hashes of what is learned from, by the config key that names it),
    ``notices: list[str]`` (lines to print before training, e.g. what of the data is cut) and
    ``conclude(metrics) -> str`` (what is printed when training is over).
    """

    name: str
    num_examples: int  # the Trainer draws indices in [0, num_examples)
    best_metric: str  # the key of validate() that is minimised

    @property
    def modules(self) -> nn.Module:
        """Everything with weights; its state_dict is checkpointed."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by group; each group has an optimizer."""

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Iterator[LossTerm]:
        """Losses on the examples ``indices`` (B,), one at a time; each reaches only the parameters of its group.

        All groups step when the micro-batches of the step are through. Draw from ``generator`` (on the CPU) only.
        """

    def validate(self, generator: torch.Generator) -> dict[str, float]:
        """Numbers on held-out data; called with averaged weights, in eval mode, without gradients."""

    def write_samples(self, directory: Path, step: int) -> None:
        """Pictures or text made by the averaged weights, as files in ``directory``."""

    def export(self, directory: Path) -> None:
        """The model directory a user loads, from the averaged weights."""
