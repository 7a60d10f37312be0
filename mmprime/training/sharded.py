"""Weights, gradients, moments and averages shared out over processes, by torch's FSDP2 (``fully_shard``).

    run.replicas = R of W processes:   a mesh (R, W/R); each of its R rows shares out all weights (HSDP)

The layers of a task are gathered one at a time for forward and backward, what lies around them once a step. Under bf16
layers are gathered in bf16 and their gradients summed in float32. Validation, samples and the exported model come from
a whole copy of the averaged weights, which each process holds while it needs it. All processes must do the same
passes, so a parameter that only some of them reach has gradient zero in the others, and so has one that none reaches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mmprime.engine import NonFiniteLogits
from mmprime.models.precision import autocast

from .config_checks import ConfigError
from .distributed import World
from .optim import EMA
from .parallel import Replicated
from .schema import Config
from .task import Task


class Sharded:
    """Shards ``task.modules`` in place; the methods are those of ``parallel.Replicated``.

    Raises ConfigError for a task without layers and for a number of replicas that does not divide the processes.
    """

    def __init__(self, task: Task, config: Config, world: World, device: torch.device) -> None:
        layers = task.layers()
        if not layers:
            raise ConfigError(f"run.parallel=fsdp: a {task.name} has no layers to share out; use run.parallel=ddp")
        if unequal := task.unequal_passes():
            raise ConfigError(f"run.parallel=fsdp: {unequal}")
        self.task, self.whole = task, _emptied(copy.deepcopy(task.modules))
        mesh = _mesh(world, config.run.replicas, device)
        with autocast(config.run.precision, device):
            half = torch.is_autocast_enabled(device.type)
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy if half else MixedPrecisionPolicy())
        root = fully_shard(task.modules, mesh=mesh)
        assert isinstance(root, FSDPModule)
        self.root = root
        inside = {id(p) for layer in layers for p in layer.parameters()}
        self.around = [name for name, p in task.modules.named_parameters() if id(p) not in inside]

    def backward(self, name: str, loss: Tensor, last: bool) -> None:
        """As of ``Replicated``."""
        self.root.set_requires_gradient_sync(last)
        zero = torch.stack([self.task.modules.get_parameter(part).sum() for part in self.around]).sum() * 0
        (loss + zero).backward()

    def backward_nan(self, name: str, last: bool) -> None:
        """Raises NonFiniteLogits: without the passes of a loss this process cannot go along with the others."""
        raise NonFiniteLogits("a loss cannot be computed, for logits are not finite; lower train.lr or train.grad_clip")

    @contextmanager
    def averaged(self, ema: EMA) -> Iterator[None]:
        """As of ``Replicated``; all processes enter, each then computes for itself."""
        sharded = self.task.modules
        for name, weight in self.whole.named_parameters():
            average = ema.average.get(name, sharded.get_parameter(name))
            weight.data = average.full_tensor() if isinstance(average, DTensor) else average.detach()
        for name, buffer in self.whole.named_buffers():
            buffer.copy_(sharded.get_buffer(name))
        self.task.modules = self.whole
        try:
            yield
        finally:
            self.task.modules = sharded
            _emptied(self.whole)


def parallelized(task: Task, config: Config, world: World, device: torch.device) -> Replicated | Sharded:
    """How the processes train ``task`` together, by ``run.parallel``. One process alone has nothing to share out."""
    if config.run.parallel == "fsdp" and world.size > 1:
        return Sharded(task, config, world, device)
    return Replicated(task, world)


def _mesh(world: World, replicas: int, device: torch.device) -> DeviceMesh:
    if world.size % replicas:
        raise ConfigError(f"run.replicas={replicas} does not divide the number of processes, {world.size}")
    if replicas == 1:
        return init_device_mesh(device.type, (world.size,))
    return init_device_mesh(device.type, (replicas, world.size // replicas), mesh_dim_names=("replicate", "shard"))


def _emptied(module: nn.Module) -> nn.Module:
    for weight in module.parameters():
        weight.data = weight.new_empty(0)
    return module
