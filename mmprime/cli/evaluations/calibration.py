"""Calibration of a model's predictions: expected calibration error, overconfidence, the share right by confidence."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmprime.evaluation.plots import Line

from .. import console

if TYPE_CHECKING:
    from mmprime.evaluation import Measure

HELP = "confidence of predictions against how often they are right"
NOTES = ("a calibrated model has calibration error beyond chance 0; its plain ECE is above 0 on any finite data",)
BIN = "share right at confidence"
PLOTTED_FROM = 10  # predictions a bin must hold to be plotted; smaller ones stand in the rows alone


@dataclasses.dataclass(frozen=True)
class Curve:
    """One reliability curve: its rows, the line (share right against confidence), the share of predictions by bin."""

    rows: list[Measure]
    line: Line
    shares: list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", default=console.DEFAULT_MODEL)
    parser.add_argument("--data", help="dataset folder (default: what the model was trained on)")
    parser.add_argument("--split", default="val", help="a split, or the start of some: val (default) takes all val*")
    parser.add_argument("--limit", type=console.positive, default=256, help="examples of each split, drawn by --seed")
    parser.add_argument("--masking", help="masking process of the states (default: the model's own)")
    parser.add_argument("--tasks", nargs="+", help="e.g. 'image|text' joint (default: each span given the others)")
    parser.add_argument("--samples", type=console.positive, default=1, help="states drawn for each example")
    parser.add_argument("--bins", type=console.positive, default=15)


def run(options: argparse.Namespace) -> list[Measure]:
    """The rows of every curve."""
    return [row for curve in reliability_curves(options) for row in curve.rows]


def reliability_curves(options: argparse.Namespace) -> Iterator[Curve]:
    """One curve for each split and task. Raises ValueError when the data do not fit the model."""
    from mmprime.engine import MASKINGS, Rows
    from mmprime.evaluation.calibration import bin_predictions, calibration_rows, predict
    from mmprime.evaluation.datasets import data_of, hash_of, load_scored, splits_of
    from mmprime.evaluation.likelihood import Effort
    from mmprime.evaluation.tasks import choose_tasks, evaluation_tasks
    from mmprime.generation.pipeline import from_pretrained

    if options.masking:
        console.require_names([options.masking], MASKINGS, "--masking")
    pipe = from_pretrained(options.model)
    data, effort = data_of(pipe, options.data), Effort(options.samples, options.seed, progress=True)
    known, masking = evaluation_tasks(pipe.canvas), options.masking or pipe.card.masking
    wanted = choose_tasks(known, options.tasks) if options.tasks else [task for task in known if len(task.scored) == 1]
    for split in splits_of(data, options.split):
        scored = load_scored(pipe, data, split, options.limit, options.seed)
        for task in wanted:
            states = Rows.of(pipe.canvas, scored.y, task.given, task.absent, scored.cond)
            predictions = predict(pipe.model, pipe.canvas, states, masking, effort)
            bins, name = bin_predictions(predictions, options.bins, options.seed), f"{split}: {task.name} {masking}"
            rows = [
                dataclasses.replace(row, data_hash=hash_of(data))
                for row in calibration_rows(name, predictions, bins, options.seed)
            ]
            label = f"{name}: ECE {bins.ece[0]:.3f} ± {bins.ece[1]:.3f}"
            kept = bins.count >= PLOTTED_FROM
            confidence, accuracy, error = bins.confidence[kept], bins.accuracy[kept], bins.gap_error[kept]
            line = Line(label, confidence.tolist(), accuracy.tolist(), error.tolist())
            yield Curve(rows, line, (bins.count[kept] / bins.count.sum()).tolist())
