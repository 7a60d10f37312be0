"""Devices as a planner sees them: what they compute, move, hold and send in a second.

    seconds of an operation = max(FLOPs / rate of products, bytes / rate of memory)

and of a step their sum; a CPU adds a fixed time for each call, a GPU takes the time of its calls by the host where that
is longer. Rates of GPUs are published ones (dense bf16, SXM; NVIDIA's data sheets) times the share that large products
and copies reach: assumed, not measured. Those of the CPU are measured on this machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from mmprime.models import DiTConfig
from mmprime.models.layers import Block

from .meters import own_clock
from .op_trace import Op, OpTrace

PRODUCTS, COPIES = 0.6, 0.8  # of the published rates of a GPU
LAUNCH = 8e-6  # seconds of the host for a call, autograd included
_STRETCHES, _STRETCH = 4, 0.02
_SIZES = (2**16, 2**20, 2**23)  # numbers, from a CPU's nearest cache to its memory


@dataclass(frozen=True)
class Hardware:
    """products: FLOP/s by (kind, half); moves: (bytes, bytes/s) by (kind, half), the rate of operations on so many
    bytes or fewer; call: seconds; memory: bytes; link, network: bytes/s of a device to others of its machine, which
    has `per_node`, and to other machines."""

    name: str
    products: Mapping[tuple[str, bool], float]
    moves: Mapping[tuple[str, bool], tuple[tuple[float, float], ...]]
    call: float
    memory: float
    link: float = 1e9
    network: float = 1e9
    per_node: int = 8
    serial: bool = False  # a call costs time of the device itself
    reached: float = 1.0  # products are this share of the published rate

    def seconds(self, ops: Mapping[Op, int], growth: float = 1.0) -> float:
        """Of operations traced at a batch, at `growth` times the batch."""
        busy = sum(count * self._seconds(op.grown(growth)) for op, count in ops.items())
        calls = self.call * sum(ops.values())
        return busy + calls if self.serial else max(busy, calls)

    def _seconds(self, op: Op) -> float:
        size = op.bytes + op.weight_bytes
        rates = self.moves["special" if op.kind == "special" else "plain", op.half and not op.flops]
        rate = next((rate for limit, rate in rates if size <= limit), rates[-1][1])
        return max(op.flops / self.products["batched" if op.kind == "batched" else "product", op.half], size / rate)


def _gpu(name: str, tflops: float, memory: float, terabytes: float, link: float, network: float) -> Hardware:
    """From published numbers: TFLOP/s, GB, TB/s, GB/s."""
    bf16 = PRODUCTS * tflops * 1e12
    products = {(kind, half): bf16 if half else bf16 / 16 for kind in ("product", "batched") for half in (True, False)}
    moves = {
        (kind, half): ((math.inf, COPIES * terabytes * 1e12),)
        for kind in ("plain", "special")
        for half in (True, False)
    }
    return Hardware(
        name, products, moves, LAUNCH, memory * 1e9, 0.8 * link * 1e9, 0.8 * network * 1e9, reached=PRODUCTS
    )


GPUS = {
    "A100": _gpu("A100", 312, 80, 2.04, 300, 25),
    "H100": _gpu("H100", 989, 80, 3.35, 450, 50),
    "H200": _gpu("H200", 989, 141, 4.8, 450, 50),
    "B200": _gpu("B200", 2250, 180, 8.0, 900, 50),
}
KINDS = (*GPUS, "cpu")


def hardware_of(kind: str) -> Hardware:
    """The device of a name; "cpu" is measured, a second. Raises ValueError on another name."""
    if kind not in KINDS:
        raise ValueError(f"--kind {kind!r} is unknown; there are {', '.join(KINDS)}")
    return GPUS[kind] if kind in GPUS else measured_cpu()


def measured_cpu() -> Hardware:
    """This machine, with the CPU threads that torch has now: the least times of short operations."""
    side = 512 * (math.isqrt(torch.get_num_threads() - 1) + 1)
    products = {}
    for half in (True, False):
        a, b = (
            torch.ones(shape, dtype=torch.bfloat16 if half else torch.float32)
            for shape in ((side, side), (256, 80, 64))
        )
        products["product", half] = 2 * side**3 / _least(partial(torch.matmul, a, a))
        products["batched", half] = 2 * 256 * 80 * 80 * 64 / _least(partial(torch.matmul, b, b.mT))
    moves = {(kind, half): _moves(kind, half) for kind in ("plain", "special") for half in (True, False)}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware("cpu", products, moves, _call_seconds(), memory, per_node=1, serial=True)


def _moves(kind: str, half: bool) -> tuple[tuple[float, float], ...]:
    """Rates of an addition, or of a SiLU, by size."""
    rates = []
    for size in _SIZES:
        x, y = torch.ones(2, size, dtype=torch.bfloat16 if half else torch.float32)
        moved = (3 if kind == "plain" else 2) * x.nbytes
        work = partial(torch.add, x, y) if kind == "plain" else partial(F.silu, x)
        rates.append((moved, moved / _least(work)))
    return tuple(rates)


def _call_seconds() -> float:
    """Of one operation on few numbers in a block, forward and backward, with all that Python does around it."""
    config = DiTConfig(preset="nano").resolve()
    block, x, turn = (
        Block(config),
        torch.ones(1, 2, config.width, requires_grad=True),
        torch.ones(2, 1, config.width // config.heads // 2),
    )
    table = torch.polar(turn, turn)
    with OpTrace(block.parameters()) as trace:
        block(x, table, None).sum().backward()
    return _least(lambda: block(x, table, None).sum().backward()) / sum(trace.ops.values())


def _least(work: Callable[[], object]) -> float:
    """Seconds of a call: the least mean of a few stretches of calls, each as long as a step of a small model is apt to
    be, for on a shared machine no step is as fast as its operations can be."""
    clock = own_clock("cpu")
    work()
    means = []
    for _ in range(_STRETCHES):
        began, calls = clock(), 0
        while (passed := clock() - began) < _STRETCH:
            work()
            calls += 1
        means.append(passed / calls)
    return min(means)
