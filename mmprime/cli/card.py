"""The model card of a model folder, README.md with YAML front matter, from measured rows."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace

from mmprime.evaluation.metric import Measure, read_rows
from mmprime.io import write_text

from . import console

HELP = "write the model card of a model folder, with measured rows and where they come from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("rows", nargs="*", metavar="ROWS", help="JSON files of mmprime evaluate --json")
    parser.add_argument(
        "--model", required=True, type=console.folder, metavar="DIR", help="model folder; its README.md is written anew"
    )
    parser.add_argument("--note", default="", help="machine and date of the rows, e.g. '2 CPU cores, 2026-11-26'")


def run(options: argparse.Namespace) -> None:
    """`mmprime report card`. Raises ValueError on rows of another model."""
    console.model_folder(options.model)
    rows = [row for file in options.rows for row in read_rows(file)]
    from mmprime.evaluation.provenance import model_hash
    from mmprime.generation.model_page import Number, model_page
    from mmprime.generation.pipeline import from_pretrained

    wanted = model_hash(options.model)
    for row in rows:
        if row.model_hash != wanted:
            raise ValueError(f"{row.metric!r} was measured on model {row.model_hash}, {options.model} is {wanted}")
    if rows and not options.note:
        raise ValueError("give --note: the machine and the date that the rows were measured on")
    pipe = from_pretrained(options.model)
    numbers = [
        Number(metric, row.value, row.stderr, row.unit, row.num_samples, split, row.command)
        for row in rows
        for split, metric in [_split_of(row, pipe.card.training_data.get("splits", {}))]
    ]
    parameters = sum(weight.numel() for weight in pipe.model.parameters())
    page = model_page(replace(pipe.card, page=""), pipe.canvas, parameters, numbers, options.note)
    write_text(f"{options.model}/README.md", page)
    print(f"model card with {len(numbers)} numbers in {options.model}/README.md")


def _split_of(row: Measure, splits: Collection[str]) -> tuple[str, str]:
    """("val", "nelbo ...") of a metric named "val: nelbo ..."."""
    split, _, metric = row.metric.partition(": ")
    return (split, metric) if split in splits else ("", row.metric)
