"""Bounds (NELBO) and exact likelihoods in nats per token, bits per byte / code / dimension, perplexity of text."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mmprime.evaluation.names import ESTIMATORS, JOINT_LOSS_NOTE, ORDERS

from .. import console, sampling

if TYPE_CHECKING:
    from mmprime.evaluation import Measure

HELP = "bounds on the negative log-likelihood"
NOTES = (JOINT_LOSS_NOTE,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    what = parser.add_argument_group("what")
    what.add_argument("--model", default=console.DEFAULT_MODEL)
    what.add_argument("--data", help="dataset folder: codes, images or text (default: what the model was trained on)")
    what.add_argument("--split", default="val", help="a split, or the start of some: val (default) takes all val*")
    what.add_argument("--tasks", type=task_names, help="e.g. image|text,image[0,0,4,4]|rest (default: all)")
    what.add_argument(
        "--region", metavar="x0,y0,x1,y1", type=_box, action="append", default=[],
        help="also a box of image codes given the rest, x1 and y1 excluded; may be repeated",
    )  # fmt: skip
    numbers = parser.add_argument_group("numbers")
    numbers.add_argument(
        "--steps",
        type=console.numbers,
        default=[4, 16, 64],
        help="T of finite-T bounds, e.g. 4,16,64",
    )
    numbers.add_argument(
        "--maskings", type=console.list_of(str), help="of continuous bounds, e.g. nested,independent (default: all)"
    )
    numbers.add_argument(
        "--estimators", type=_among(ESTIMATORS), default=["count"],
        help="of continuous bounds: count (masked sub-tokens uniform, default), time (stratified t)",
    )  # fmt: skip
    numbers.add_argument(
        "--level-powers", type=console.powers, metavar="P,P",
        help="also bounds under α = 1 - t^P for each digit level, e.g. 1,2 (default: the model's, if it has some)",
    )  # fmt: skip
    sampling.add_sampler(numbers, "also the T-step bound of this planned sampler and its options, by its own plans")
    numbers.add_argument(
        "--orders", type=_among(ORDERS), default=[],
        help=f"exact likelihood of fixed orders, a forward pass for each token: {','.join(ORDERS)}",
    )  # fmt: skip
    effort = parser.add_argument_group("effort")
    effort.add_argument("--limit", type=console.positive, default=256, help="examples of each split, drawn by --seed")
    effort.add_argument("--samples", type=console.positive, default=1, help="draws averaged for each example")
    effort.add_argument(
        "--precision",
        type=console.number_in(0, math.inf, "low high"),
        help="go on until the standard error is this small, in nats per token",
    )
    effort.add_argument("--batch", type=console.positive, default=64)


def run(options: argparse.Namespace) -> list[Measure]:
    """All numbers on each split."""
    from mmprime.engine import MASKINGS
    from mmprime.evaluation.datasets import data_of, hash_of, load_scored, splits_of
    from mmprime.evaluation.likelihood import Effort, measures
    from mmprime.evaluation.quantities import Bounds
    from mmprime.generation.pipeline import from_pretrained

    maskings = options.maskings or list(MASKINGS)
    console.require_names(maskings, MASKINGS, "--maskings")
    effort = Effort(options.samples, options.seed, options.batch, options.precision, progress=True)
    pipe = from_pretrained(options.model)
    bounds = Bounds(
        pipe.card.masking,
        maskings,
        options.steps,
        estimators=options.estimators,
        orders=options.orders,
        sampler=sampling.sampler(options.sampler),
        level_powers=options.level_powers or pipe.card.level_powers,
        tasks=options.tasks,
        boxes=options.region,
    )
    data = data_of(pipe, options.data)
    rows: list[Measure] = []
    for split in splits_of(data, options.split):
        scored = load_scored(pipe, data, split, options.limit, options.seed)
        measured = measures(pipe.model, pipe.canvas, scored, bounds, effort)
        rows += [replace(row, metric=f"{split}: {row.metric}", data_hash=hash_of(data)) for row in measured]
    return rows


def task_names(text: str) -> list[str]:
    """An argparse type: names of tasks, separated by commas outside brackets.

    >>> task_names("image|text,image[0,0,4,4]|rest")
    ['image|text', 'image[0,0,4,4]|rest']
    """
    names = [name.strip() for name in re.split(r",(?![^\[]*\])", text) if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} lists nothing")
    return names


def _box(text: str) -> tuple[int, ...]:
    parts = tuple(console.list_of(console.whole)(text))
    if len(parts) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not four numbers x0,y0,x1,y1")
    return parts


def _among(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """An argparse type: a list of names out of `known`."""

    def parse(text: str) -> list[str]:
        names = console.list_of(str)(text)
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown {name!r}; there are {', '.join(known)}")
        return names

    return parse
