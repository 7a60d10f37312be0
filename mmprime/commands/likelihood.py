"""Bounds (NELBO) in nats per token, bits per byte / code / dimension, perplexity of text."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmprime import console

if TYPE_CHECKING:
    from mmprime.evaluation import Measure

HELP = "bounds on the negative log-likelihood"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", default=console.DEFAULT_MODEL)
    parser.add_argument("--data", help="dataset folder: codes, images or text (default: what the model was trained on)")
    parser.add_argument("--split", default="val", help="a split, or the start of some: val (default) takes all val*")
    parser.add_argument("--limit", type=console.positive, default=256, help="examples of each split, drawn by --seed")
    parser.add_argument("--steps", type=_numbers, default=[4, 16, 64], help="T of finite-T bounds, e.g. 4,16,64")
    parser.add_argument(
        "--laws", type=_laws, default=list(console.LAWS), help="laws of the continuous bounds, comma-separated"
    )
    parser.add_argument("--tasks", type=_names, help="e.g. image|text,text|image,joint (default: all)")
    parser.add_argument("--samples", type=console.positive, default=1, help="draws averaged for each example")
    parser.add_argument("--batch", type=console.positive, default=64)


def run(options: argparse.Namespace) -> list[Measure]:
    """Bounds on each split."""
    from mmprime.evaluation.likelihood import measures
    from mmprime.evaluation.provenance import data_hash
    from mmprime.pipeline import from_pretrained
    from mmprime.scoring import load_scored, splits_of

    pipe = from_pretrained(options.model)
    data = Path(options.data) if options.data else pipe.data
    if data is None:
        raise ValueError("the model does not say what it was trained on; give --data DIR")
    rows: list[Measure] = []
    for split in splits_of(data, options.split):
        scored = load_scored(pipe, data, split, options.limit, options.seed)
        found = measures(
            pipe.model,
            pipe.canvas,
            scored.y0,
            pipe.law,
            options.steps,
            options.laws,
            options.samples,
            options.seed,
            scored.sizes,
            scored.cond,
            options.tasks,
            options.batch,
        )
        rows += [replace(row, metric=f"{split}: {row.metric}", data_hash=data_hash(data)) for row in found]
    return rows


def _numbers(text: str) -> list[int]:
    return [console.positive(part.strip()) for part in text.split(",") if part.strip()]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _laws(text: str) -> list[str]:
    names = _names(text)
    for name in names:
        if name not in console.LAWS:
            raise argparse.ArgumentTypeError(f"unknown law {name!r}; there are {', '.join(console.LAWS)}")
    return names
