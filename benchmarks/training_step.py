"""The whole training step (forward, joint loss, backward, AdamW) with the softmax head as it is and with all C logits.

    python benchmarks/training_step.py [--quick] [--codes 50257 --digits 1,2 --slope 4096 --slope-digits 1,2,4,8,16]

The reference asks the network for all C logits of every token that has something masked, lays them on the digit grid of
b^S cells, puts -inf on the cells that contradict a visible digit, one axis after another, and takes log-softmax and
masses there. Both give the same loss. They run in turns in one process; ratios of CPU seconds in one run compare, those
of different runs do not. Memory is the growth of the peak of resident memory during a step, gradients included (Linux).
Slopes are those of log time and log memory against log S at a fixed number of codes, one block deep.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import time
from pathlib import Path

import torch
from sampling import peak_resident
from torch import Tensor

from mmprime.engine import Canvas, Codec, Head, SoftmaxHead, Span, joint_loss
from mmprime.engine.denoiser import Wrapper
from mmprime.engine.heads import Tokens
from mmprime.engine.heads.base import Logits
from mmprime.models import DiTConfig, PrimeDiT


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


class Job:
    """A model of C codes of S digits, and its data, seeded."""

    def __init__(self, codes: int, digits: int, depth: int, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.codec = Codec.base(codes, digits)
        self.canvas = Canvas([Span("text", options.length, self.codec)])
        self.model = PrimeDiT(self.canvas, DiTConfig(width=options.width, depth=depth, heads=options.width // 64))
        torch.nn.init.normal_(self.model.heads["text"].linear.weight, std=0.02)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.y = self.canvas.pack({"text": torch.randint(codes, (options.batch, options.length))})

    def step(self, method: str, seed: int) -> tuple[float, float]:
        """CPU seconds and MB of one step; equal seeds have equal masks."""
        ctypes.CDLL(None).malloc_trim(0)  # what earlier steps left goes back
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
        before, start = peak_resident(), time.process_time()
        network = Full(self.model) if method == "full" else self.model
        loss = joint_loss(network, self.canvas, self.y, generator=torch.Generator().manual_seed(seed)).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - start, peak_resident() - before

    def measure(self, methods: list[str], repeats: int) -> dict[str, list[tuple[float, float]]]:
        """Steps by method, the methods in turns, after one to warm up."""
        found: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
        for seed in range(repeats + 1):
            for method in methods:
                found[method].append(self.step(method, seed))
        return {method: steps[1:] for method, steps in found.items()}


def compare(options: argparse.Namespace) -> None:
    """The step at many codes."""
    print("| C | digits | s, all logits | s | faster | MB, all logits | MB | of it |")
    print("|---|---|---|---|---|---|---|---|")
    for digits in map(int, filter(None, options.digits.split(","))):
        job = Job(options.codes, digits, options.depth, options)
        found = job.measure(["full", "restricted"], options.repeats)
        ratio = statistics.median(a[0] / b[0] for a, b in zip(*found.values()))
        full, ours = (statistics.median(step[0] for step in steps) for steps in found.values())
        more, less = (max(step[1] for step in steps) for steps in found.values())
        print(f"| {options.codes} | {job.codec.radices} | {full:.2f} | {ours:.2f} | {ratio:.2f} | ", end="")
        print(f"{more:.0f} | {less:.0f} | {less / more:.2f} |", flush=True)


def slopes(options: argparse.Namespace) -> None:
    """Time and memory of a step against S."""
    print(f"\nC = {options.slope}, one block\n| digits | cells / C | s | MB |\n|---|---|---|---|")
    rows = []
    for digits in map(int, filter(None, options.slope_digits.split(","))):
        job = Job(options.slope, digits, 1, options)
        steps = job.measure(["restricted"], options.repeats)["restricted"]
        seconds, peak = statistics.median(step[0] for step in steps), max(step[1] for step in steps)
        rows.append((math.log(digits), math.log(seconds), math.log(peak)))
        print(f"| {digits} | {job.codec.num_cells / options.slope:.2f} | {seconds:.3f} | {peak:.0f} |", flush=True)
    if len(rows) > 1:
        x, *both = zip(*rows)
        of_time, of_memory = (statistics.linear_regression(x, y).slope for y in both)
        print(f"slope of time {of_time:.2f}, of memory {of_memory:.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("codes", 50_257), ("length", 512), ("batch", 2), ("width", 256), ("depth", 6), ("threads", 1), ("repeats", 5),
        ("slope", 4096),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--digits", default="1,2")
    parser.add_argument("--slope-digits", default="1,2,3,4,6,8,12,16")
    parser.add_argument("--quick", action="store_true", help="an eighth of the codes, a quarter of the tokens")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.codes, options.slope, options.length = options.codes // 8, options.slope // 8, options.length // 4
    print(f"L = {options.length}, batch {options.batch}, width {options.width}, depth {options.depth}; ", end="")
    print(f"{options.threads} thread, torch {torch.__version__}, medians of {options.repeats}")
    compare(options)
    slopes(options)


if __name__ == "__main__":
    main()
