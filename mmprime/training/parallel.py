"""How the gradient of a step is made of what the processes compute: replicated weights, by torch's DDP.

    g = 1/W Σ_r 1/m Σ_j ∇ loss_{r,j}        W processes, m = accumulate / W micro-batches j of each

which is the gradient of the mean over all micro-batches. Sums over processes are made while the last micro-batch of a
step is backpropagated, and only then. DDP stands around the *loss* of a group of parameters, not around a model: it
hooks the parameters and asks the loss which of them it reached, so models and tasks know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .distributed import World
from .optim import EMA
from .task import Task


class _Loss(nn.Module):
    """The loss of one group of parameters, as it is."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_of_group = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


class Replicated:
    """Every process holds all weights. A parameter that no process has a gradient for is left without one."""

    def __init__(self, task: Task, world: World) -> None:
        self.task = task
        self.groups = {name: [p for p in group if p.requires_grad] for name, group in task.parameter_groups().items()}
        self.losses: dict[str, DistributedDataParallel] = {}
        if world.size > 1:
            self.losses = {
                name: DistributedDataParallel(
                    _Loss(group),
                    init_sync=False,
                    find_unused_parameters=not task.reaches_all,
                    gradient_as_bucket_view=True,
                )
                for name, group in self.groups.items()
            }

    def backward(self, name: str, loss: Tensor, last: bool) -> None:
        """Add the gradients of a loss to those of its group ``name``; at the ``last`` micro-batch of a step, average
        what was added up over processes."""
        inputs = self.groups[name] if len(self.groups) > 1 else None
        if not self.losses:
            torch.autograd.backward(loss, inputs=inputs)
            return
        parallel = self.losses[name]
        with nullcontext() if last else parallel.no_sync():
            torch.autograd.backward(parallel(loss), inputs=inputs)

    def backward_nan(self, name: str, last: bool) -> None:
        """In place of a loss that could not be computed: NaN gradients, which stop every process at this step."""
        self.backward(name, torch.stack([p.sum() for p in self.groups[name]]).sum() * float("nan"), last)

    @contextmanager
    def averaged(self, ema: EMA) -> Iterator[None]:
        """Within the block ``task.modules`` computes with averaged weights, each process for itself."""
        with ema.swapped_in():
            yield
