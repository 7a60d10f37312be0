"""Several processes (torchrun; gloo on CPU, nccl on GPUs) that train as one.

Each process backpropagates its own micro-batches of a step, already divided by the number of all micro-batches; the
gradients are then *summed*, so every process steps with the gradient of the whole step. All begin with the same
weights and stay equal. What else a step changes (a code book) is the task's ``after_step`` to make equal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 2**23  # elements summed in one message: 32 MB of float32


@dataclass(frozen=True)
class World:
    """This process among all; ``World()`` is a process alone, and each method is then free."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of ``parameters`` over processes, in place.

        One that only some processes have counts as zero elsewhere; one that none has stays None, so that the optimizer
        passes over it everywhere.
        """
        found = list(parameters)
        if self.size == 1 or not found:
            return
        present = torch.tensor([float(p.grad is not None) for p in found], device=found[0].device)
        reached = [p for p, count in zip(found, self.sum(present).tolist()) if count]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in reached]
        for bucket in _buckets(gradients):
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket])):
                gradient.copy_(part.view_as(gradient))
        for parameter, gradient in zip(reached, gradients):
            parameter.grad = gradient

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of process 0."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """A JSON-like ``value`` of every process, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

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


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (sum(t.numel() for t in bucket) + tensor.numel() > BUCKET or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
