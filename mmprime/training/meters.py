"""Where the time of training steps goes, and how many FLOPs of the model they do: kept by hooks, read at log lines.

    MFU = FLOPs of the model (``flops``) / (seconds of the steps · the matrix-product rate that this device reaches)

    data       a batch, its masks          trunk  embeddings and blocks       head  the network behind a head
    loss       all between head and loss   optimizer  norms, clipping, update, averaged weights

A part runs from its mark to the next one: in the forward pass marks are set where modules begin and end, in the
backward pass where the gradient of their inputs and outputs is there (so of several passes in one loss, the backward
of all losses but the last counts as trunk). Marks take a clock's time on a CPU and an event in the stream on a GPU;
neither waits. Sums between processes are in the part that waits for them.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmprime.engine import DigitQuery

from .flops import denoiser_of, head_flops, step_factor, trunk_flops

PARTS = ("data", "trunk", "head", "loss", "optimizer")
_MOST_MARKS = 4096  # kept before the host waits for the device
_SIDES = {"cpu": (256, 512), "cuda": (4096, 8192)}


def own_clock(device: str) -> Callable[[], float]:
    """The clock of work on a device ("cpu", "cuda"): one CPU thread goes by the CPU seconds of the process, in which
    what others do on the machine does not count; else what a clock on the wall says."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


class Meter:
    """Seconds by part and FLOPs of the steps since the last :meth:`read`; ``Meter()`` counts nothing.

    A task without a denoiser has "trunk" and "head" in "loss". clock: seconds on a CPU.
    """

    def __init__(
        self,
        modules: nn.Module | None = None,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self.on, self.backward, self.part = modules is not None, False, ""
        self.cuda = device is not None and device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []
        self.denoiser = None if modules is None else denoiser_of(modules)
        self.first = "loss" if self.denoiser is None else "data"  # where a micro-batch begins
        self.clear()
        if self.denoiser is not None:
            self._follow()

    def clear(self) -> None:
        """Forget what was counted."""
        self.marks.clear()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.flops = {"trunk": 0.0, "head": 0.0}
        self.steps = 0

    def mark(self, part: str) -> None:
        """What comes now is this part; empty: nothing that counts."""
        if self.on and part != self.part:
            self.part = part
            stamp: Any = None if self.cuda else self.clock()
            if self.cuda:
                stamp = torch.cuda.Event(enable_timing=True)
                stamp.record()
            self.marks.append((part, stamp))

    def end(self) -> None:
        """A step is over."""
        self.mark("")
        self.steps += 1
        if not self.cuda or len(self.marks) > _MOST_MARKS:
            self._add_up()

    def read(self, rate: float) -> dict[str, float]:
        """Numbers to log of the steps since the last call, which are forgotten; rate: FLOP/s of matrix products."""
        self._add_up()
        total = sum(self.seconds.values())
        values = {f"time/{part}": round(seconds / total, 4) for part, seconds in self.seconds.items() if total}
        if self.denoiser is not None and total:
            values["mfu"] = round(sum(self.flops.values()) / (total * rate), 5)
        self.clear()
        return values

    def _add_up(self) -> None:
        if self.cuda and self.marks:
            self.marks[-1][1].synchronize()
        for (part, start), (_, end) in zip(self.marks, self.marks[1:]):
            if part:
                self.seconds[part] += start.elapsed_time(end) / 1e3 if self.cuda else end - start
        del self.marks[:-1]

    def _follow(self) -> None:
        model = self.denoiser
        assert model is not None
        heads = set(map(id, model.heads.parameters()))
        trunk = [p for p in model.parameters() if id(p) not in heads]
        reached = any(p.requires_grad for p in model.embedders.parameters())
        factors = (
            step_factor(trunk, reached),
            step_factor(model.heads.parameters(), any(p.requires_grad for p in trunk)),
        )
        model.register_forward_pre_hook(self._before_trunk)
        model.register_forward_hook(functools.partial(self._after_trunk, factors[0]))
        for net in model.heads.values():
            net.register_forward_pre_hook(self._before_head)
            net.register_forward_hook(functools.partial(self._after_head, factors[1]))

    def _at_gradient(self, tensor: Tensor, part: str) -> None:
        """The part begins when the gradient of the tensor is there."""
        if not self.backward and tensor.requires_grad:
            tensor.register_hook(lambda _: self.mark(part))

    def _before_trunk(self, model: Any, inputs: Sequence[Any]) -> None:
        if self.part:  # else it is validation, or samples
            self.mark("trunk")

    def _after_trunk(self, factor: float, model: Any, inputs: Sequence[Any], hidden: Tensor) -> None:
        if not self.part:
            return
        self.flops["trunk"] += factor * trunk_flops(model, *hidden.shape[:2])
        self.mark("loss")
        self._at_gradient(hidden, "trunk")

    def _before_head(self, net: nn.Module, inputs: Sequence[Any]) -> None:
        if self.part:
            self.mark("head")
            self._at_gradient(inputs[0], "loss")

    def _after_head(self, factor: float, net: Any, inputs: Sequence[Any], logits: Tensor) -> None:
        if not self.part:
            return
        if not self.backward:  # else it is computed anew
            codes = logits.shape[-1] if logits.ndim > 1 else net.linear.out_features  # (M,): nats of all codes' logits
            asked = inputs[1].level.numel() if isinstance(inputs[-1], DigitQuery) else codes
            self.flops["head"] += factor * head_flops(net, len(inputs[0]), asked)
        self.mark("loss")
        self._at_gradient(logits, "head")


@functools.cache
def product_rate(device: str, half: bool, threads: int, repeats: int = 8) -> float:
    """FLOP/s of the fastest square matrix product of this device ("cpu", "cuda"), in bf16 or float32, by the clock.

    The least time of `repeats` products of each side; threads are those of a CPU, as they are set now.
    """
    best = 0.0
    for side in _SIDES[device]:
        side *= math.isqrt(threads - 1) + 1 if device == "cpu" else 1  # enough for each thread
        a = torch.ones(side, side, dtype=torch.bfloat16 if half else torch.float32, device=device)
        for _ in range(repeats + 1):
            seconds = _clocked(a)
            best = max(best, 2 * side**3 / seconds)
    return best


def _clocked(a: Tensor) -> float:
    """Seconds of a product of a matrix with itself."""
    if a.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    a @ a
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def memory_peak(device: torch.device) -> float:
    """GiB: the most that tensors took on a GPU since the process began; of a CPU, the process's peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
