"""One step of the optimizers: the gradient of all micro-batches of all processes, clipped and applied.

for each own micro-batch m:   loss(indices(k, m); generator(seed, k, m)) / number of own micro-batches  -> gradients
mean over processes (``parallel``); stop if anything is not finite; clip; AdamW or Muon at lr(k); EMA
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmprime.engine import NonFiniteLogits
from mmprime.io import whole_file
from mmprime.models.precision import autocast

from . import rng
from .data_order import DataOrder
from .distributed import World
from .log import numbers
from .meters import Meter
from .optim import learning_rate
from .parallel import Replicated
from .sharded import Sharded
from .signals import StopRequest
from .state import MUON, RunState


class NonFiniteLoss(RuntimeError):
    """A loss, a gradient or a weight was not finite; the message says where the run can go on."""


class Stepper:
    """Makes the steps of a run; ``directory`` gets the batch at which a number was not finite."""

    def __init__(
        self,
        state: RunState,
        parallel: Replicated | Sharded,
        order: DataOrder,
        world: World,
        device: torch.device,
        directory: Path,
    ) -> None:
        self.state, self.parallel, self.order = state, parallel, order
        self.world, self.device, self.directory = world, device, directory
        self.task, self.config, self.train = state.task, state.config, state.config.train
        self.meter = Meter()

    def __call__(self, stop: StopRequest) -> bool:
        """One step; True if any process is to stop. Raises NonFiniteLoss, which says where the batch is."""
        self.task.modules.train()
        self.meter.mark("optimizer")
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        micros = self.order.own_micro_batches()
        bad = [micro for micro in micros if not self._backward(micro, micro == micros[-1])]
        self.meter.mark("optimizer")
        where = self.device if self.world.size > 1 else "cpu"
        stats = self.world.sum(torch.tensor([float(len(bad)), float(stop.is_wanted)], device=where))
        norms = {name: self._clip(parameters) for name, parameters in self.state.groups.items()}
        if stats[0] > 0 or not all(math.isfinite(norm) for norm in norms.values()):
            what = "loss" if bad else f"gradient ({numbers(norms)}), or the loss of another process,"
            raise NonFiniteLoss(f"{what} is not finite; batch saved in {self._save_batch(bad)}")
        step = self.state.at.step
        for name, optimizer in self.state.optimizers.items():
            for group in optimizer.param_groups:
                scale = self.train.lr_scale.get(name.removeprefix(MUON), 1.0)
                group["lr"] = learning_rate(step, self.train) * scale
            optimizer.step()
        self.task.after_step()
        self.state.ema.update(step)
        self.state.window.add({f"grad_norm/{name}": norm for name, norm in norms.items()})
        self.state.at.step += 1
        self.meter.end()
        return bool(stats[1] > 0)

    def _backward(self, micro: int, last: bool = True) -> bool:
        """Gradients of one micro-batch; False if a loss is not finite. All the same each group gets its gradient, for
        other processes wait for it."""
        seed, step = self.config.run.seed, self.state.at.step
        self.meter.mark(self.meter.first)
        rng.seed_globals(seed, "global", step, micro)
        generator = rng.generator_for("cpu", seed, "step", step, micro)
        terms = self.task.losses(self.order.indices(step, micro), generator, step)
        finite, left = True, dict.fromkeys(self.state.groups)
        while True:
            try:
                with autocast(self.config.run.precision, self.device):
                    term = next(terms, None)
            except NonFiniteLogits:
                for name in left:
                    self.parallel.backward_nan(name, last)
                return False
            if term is None:
                return finite
            name, loss, metrics = term
            left.pop(name, None)
            value = float(loss.detach())
            self.state.window.add({f"loss/{name}": value, **metrics})
            finite = finite and math.isfinite(value)
            self.meter.backward = True
            self.parallel.backward(name, loss / len(self.order.own_micro_batches()), last)
            self.meter.backward = False

    def _clip(self, parameters: list[nn.Parameter]) -> float:
        limit = self.train.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _save_batch(self, bad: list[int]) -> Path:
        """The micro-batches at fault, all own ones if only a gradient is."""
        step, micros = self.state.at.step, bad or list(self.order.own_micro_batches())
        indices = torch.cat([self.order.indices(step, micro) for micro in micros])
        tensors: dict[str, Tensor] = {"indices": indices, "micro_batches": torch.tensor(micros)}
        tensors |= {k: v.cpu().contiguous() for k, v in self.task.inspect(indices).items()}
        path = self.directory / f"nonfinite_step{step}_rank{self.world.rank}.safetensors"
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata={"step": str(step), "seed": str(self.config.run.seed)})
        return path
