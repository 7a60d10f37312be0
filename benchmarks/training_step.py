"""The whole training step (forward, joint loss, backward, AdamW) with the softmax head as it is and with all C logits.

    python benchmarks/training_step.py [--quick] [--codes 50257 --digits 1,2]
    python benchmarks/training_step.py --slope-codes 1024,4096,16384 [--slope-digits 1,2,4 ...]

The reference asks the network for all C logits of every token that has something masked, lays them on the digit grid of
b^S cells, puts -inf on the cells that contradict a visible digit, one axis after another, and takes log-softmax and
masses there. Both give the same loss. They run in turns in one process; ratios of CPU seconds in one run compare, those
of different runs do not. Memory is the growth of the peak of resident memory during a step, gradients included (Linux).

Curves, which run instead of that comparison, are of one size, the others as --slope-at has them, one block deep. Their
slopes are those of log time and log memory against its log: through all points, and the steepest between neighbours.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from cost import cost
from torch import Tensor

from mmprime.cli import console
from mmprime.engine import Canvas, Codec, Head, SoftmaxHead, Span, joint_loss
from mmprime.engine.denoiser import Wrapper
from mmprime.engine.heads import Tokens
from mmprime.engine.heads.base import Logits
from mmprime.models import DiTConfig, PrimeDiT

AXES = ("codes", "digits", "length", "batch")


class FullHead(SoftmaxHead):
    """The reference: every cell of the grid, for every token."""

    def size(self, span: Span) -> int:
        return span.codec.num_cells

    def nats(self, network: Logits, tokens: Tokens, aim: Tensor, known: Tensor | None = None) -> Tensor:
        """Of complete aims, which are all that the joint loss has."""
        logits = network.logits(tokens.hidden, tokens.span).float()
        assert bool(logits.amax(-1).isfinite().all())
        grid = tokens.span.codec.to_grid(logits)
        for axis, radix in enumerate(grid.shape[1:]):
            digit = tokens.visible[:, axis]
            if bool((digit >= 0).any()):
                clash = (digit[:, None] >= 0) & (digit[:, None] != torch.arange(radix))
                shape = [-1, *(radix if axis == other else 1 for other in range(grid.ndim - 1))]
                grid = grid + torch.zeros(clash.shape).masked_fill(clash, -math.inf).view(shape)
        log_p, cell = torch.log_softmax(grid.flatten(1), -1), torch.zeros_like(aim[..., 0])
        for axis, radix in enumerate(grid.shape[1:]):
            cell = cell * radix + aim[..., axis]
        return -log_p.gather(1, cell.T).T.masked_fill((aim == tokens.visible).all(-1), 0.0)


class Full(Wrapper):
    """A denoiser with that head."""

    def head(self, span: Span) -> Head:
        return FullHead()


@dataclass(frozen=True)
class Size:
    """What a step is measured at. length, batch: tokens of a row, rows."""

    codes: int
    digits: int
    length: int
    batch: int
    width: int
    depth: int


class Job:
    """A model and its data, seeded."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        self.codec = Codec.base(size.codes, size.digits)
        self.canvas = Canvas([Span("text", size.length, self.codec)])
        self.model = PrimeDiT(self.canvas, DiTConfig(width=size.width, depth=size.depth, heads=size.width // 64))
        torch.nn.init.normal_(self.model.heads["text"].get_parameter("linear.weight"), std=0.02)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.y = self.canvas.pack({"text": torch.randint(size.codes, (size.batch, size.length))})

    def step(self, method: str, seed: int) -> None:
        """Equal seeds have equal masks."""
        network = Full(self.model) if method == "full" else self.model
        loss = joint_loss(network, self.canvas, self.y, generator=torch.Generator().manual_seed(seed)).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def measure(self, methods: list[str], repeats: int) -> dict[str, list[tuple[float, float]]]:
        """CPU seconds and MB of steps by method, the methods in turns, after one to warm up."""
        found: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
        for seed in range(repeats + 1):
            for method in methods:
                found[method].append(cost(partial(self.step, method, seed)))
        return {method: steps[1:] for method, steps in found.items()}


def compare(size: Size, repeats: int) -> None:
    """The step with all logits and with those that are needed."""
    job = Job(size)
    found = job.measure(["full", "restricted"], repeats)
    ratio = statistics.median(a[0] / b[0] for a, b in zip(*found.values()))
    full, ours = (statistics.median(step[0] for step in steps) for steps in found.values())
    more, less = (max(step[1] for step in steps) for steps in found.values())
    print(f"| {size.codes} | {job.codec.radices} | {full:.2f} | {ours:.2f} | {ratio:.2f} | ", end="")
    print(f"{more:.0f} | {less:.0f} | {less / more:.2f} |", flush=True)


@dataclass(frozen=True)
class Slope:
    """Of log y against log x: the least-squares line through all points, and the steepest between neighbours."""

    overall: float
    steepest: float

    @classmethod
    def of(cls, x: Sequence[float], y: Sequence[float]) -> Slope:
        """Raises ValueError on fewer than two points, or x that does not grow."""
        if len(x) < 2 or any(b <= a for a, b in pairwise(x)):
            raise ValueError(f"a slope needs at least two points that grow, got {list(x)}")
        points = [(math.log(a), math.log(b)) for a, b in zip(x, y)]
        steps = [(d - b) / (c - a) for (a, b), (c, d) in pairwise(points)]
        return cls(statistics.linear_regression(*zip(*points)).slope, max(steps))

    def __str__(self) -> str:
        return f"{self.overall:.2f} (steepest {self.steepest:.2f})"


def slopes(size: Size, axis: str, values: Sequence[int], repeats: int) -> None:
    """Time and memory of a step against one of its sizes, the others fixed."""
    others = ", ".join(f"{name} {value}" for name, value in vars(size).items() if name != axis)
    print(f"\n{others}\n\n| {axis} | s | MB |\n|---|---|---|")
    found = []
    for value in values:
        steps = Job(replace(size, **{axis: value})).measure(["restricted"], repeats)["restricted"]
        found.append((statistics.median(step[0] for step in steps), max(step[1] for step in steps)))
        print(f"| {value} | {found[-1][0]:.3f} | {found[-1][1]:.0f} |", flush=True)
    time, memory = (Slope.of(values, column) for column in zip(*found))
    print(f"| slope | {time} | {memory} |", flush=True)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("codes", 50_257), ("length", 512), ("batch", 2), ("width", 256), ("depth", 6), ("threads", 1), ("repeats", 5),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=console.positive, default=default)
    parser.add_argument("--digits", type=console.numbers, default=[1, 2])
    for axis in AXES:
        parser.add_argument(f"--slope-{axis}", type=console.numbers, default=[], help="a curve, e.g. 1,2,4,8")
    parser.add_argument("--slope-at", type=console.numbers, default=[4096, 2, 512, 2], metavar=",".join(AXES).upper())
    parser.add_argument("--quick", action="store_true", help="an eighth of the codes, a quarter of the tokens")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = parse(words)
    torch.set_num_threads(options.threads)
    smaller = (8, 1, 4, 1) if options.quick else (1, 1, 1, 1)
    size = Size(
        options.codes // smaller[0], 1, options.length // smaller[2], options.batch, options.width, options.depth
    )
    print(f"{options.threads} thread, torch {torch.__version__}, medians of {options.repeats}")
    curves = {axis: values for axis in AXES if (values := getattr(options, f"slope_{axis}"))}
    at = dict(zip(AXES, (value // by for value, by in zip(options.slope_at, smaller))))
    for axis, values in curves.items():
        slopes(replace(size, depth=1, **at), axis, values, options.repeats)
    if curves:
        return
    print(f"L = {size.length}, batch {size.batch}, width {size.width}, depth {size.depth}\n")
    print("| C | digits | s, all logits | s | faster | MB, all logits | MB | of it |")
    print("|---|---|---|---|---|---|---|---|")
    for digits in options.digits:
        compare(replace(size, digits=digits), options.repeats)


if __name__ == "__main__":
    main()
