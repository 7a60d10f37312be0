"""The trunk of a denoiser, forward and backward, against the rate of matrix products, on one core in float32.

    python benchmarks/trunk.py [--widths 512,768 --depth 2 --length 256 --batch 8 --variants sdpa,reference,compiled]

In turns: square products of side 512, which are the fastest; the products of the blocks' linear maps alone, with those
of their gradients; the trunk, embedding included, with each attention, and with its blocks compiled. FLOPs by the
closed form of `mmprime.training.flops`, CPU seconds. Shares are of the square products of the same turn, so that what
slows the machine slows both; medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch
from cost import Work, in_turns
from torch import Tensor, nn

from mmprime.cli import console
from mmprime.engine import Canvas, Codec, Span
from mmprime.evaluation.metric import markdown
from mmprime.models import DiTConfig, PrimeDiT
from mmprime.training.flops import trunk_flops

SIDE = 512
VARIANTS = ("sdpa", "reference", "compiled")


def square(count: int) -> None:
    a = torch.ones(SIDE, SIDE)
    for _ in range(count):
        a @ a


def backward(network: nn.Module, x: Tensor, *more: Canvas) -> None:
    """Forward, and back from a gradient of ones."""
    out = network(x, *more)
    out.backward(torch.ones_like(out))
    network.zero_grad()


def products(model: PrimeDiT, tokens: int) -> tuple[float, Work]:
    """The linear maps of the blocks on inputs of their own: FLOPs, and the work."""
    maps = [module for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    inputs = {size: torch.randn(tokens, size, requires_grad=True) for size in {each.in_features for each in maps}}

    def work() -> None:
        for each in maps:
            backward(each, inputs[each.in_features])

    return 6.0 * tokens * sum(each.weight.numel() for each in maps), work


def measure(width: int, options: argparse.Namespace) -> list[list[str]]:
    """Rows of the table for a width."""
    canvas = Canvas([Span("text", options.length, Codec.base(options.codes, 2))])
    y = torch.full((options.batch, canvas.num_subtokens), -1)
    works: dict[str, tuple[float, Work]] = {}
    for variant in options.variants:
        torch.manual_seed(0)
        attention = "reference" if variant == "reference" else "sdpa"
        model = PrimeDiT(canvas, DiTConfig(width=width, depth=options.depth, heads=width // 64, attention=attention))
        if variant == "compiled":
            for block in model.blocks:
                block.compile()
        if not works:
            flops, work = products(model, options.batch * options.length)
            count = max(1, round(flops / (2 * SIDE**3)))
            works["square products"] = (2.0 * SIDE**3 * count, partial(square, count))
            works["products of the linear maps"] = flops, work
        flops = 3.0 * trunk_flops(model, options.batch, options.length)
        works[f"trunk, {variant}"] = flops, partial(backward, model, y, canvas)
    costs = in_turns([work for _, work in works.values()], options.repeats)
    rates = {name: [flops / seconds for seconds, _ in runs] for (name, (flops, _)), runs in zip(works.items(), costs)}
    best = rates["square products"]
    return [
        [str(width), name, f"{flops / 1e9:.1f}", f"{median(rates[name]) / 1e9:.0f}",
         f"{100 * median(a / b for a, b in zip(rates[name], best)):.0f}"]
        for name, (flops, _) in works.items()
    ]  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("depth", 2), ("length", 256), ("batch", 8), ("codes", 1024), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=console.positive, default=default)
    parser.add_argument("--widths", type=console.numbers, default=[512, 768])
    parser.add_argument("--variants", type=console.list_of(str), default=list(VARIANTS), metavar=",".join(VARIANTS))
    options = parser.parse_args(words)
    if unknown := [variant for variant in options.variants if variant not in VARIANTS]:
        parser.error(f"--variants: unknown {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    torch.set_num_threads(1)
    print(f"depth {options.depth}, L = {options.length}, batch {options.batch}, float32; one thread, ", end="")
    print(f"torch {torch.__version__}, medians of {options.repeats}\n")
    rows = [row for width in options.widths for row in measure(width, options)]
    print(markdown(["width", "", "GFLOP", "GFLOP/s", "% of square products"], rows, words=[1]))


if __name__ == "__main__":
    main()
