"""The schedule a model was trained under: α of every digit level, and its transitions at T steps as a matrix."""

from __future__ import annotations

import argparse

from mmprime.evaluation.plots import Line, plot_schedule, require_plots

from . import console

HELP = "the schedule of every digit level a model was trained under, and its transitions at T steps"
_TIMES = 101


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", default=console.DEFAULT_MODEL, metavar="DIR")
    parser.add_argument("--steps", type=console.whole, default=16, metavar="T", help="of the transitions (default 16)")
    parser.add_argument(
        "--level-powers", type=console.powers, metavar="P,P", help="instead of the model's own, e.g. 1,2"
    )


def run(options: argparse.Namespace) -> None:
    """Draw the figure and print the powers. Raises ValueError on a model with one schedule for all its digits."""
    require_plots(options.out)
    if options.steps < 1:
        raise ValueError(f"--steps {options.steps}: a number of steps is at least 1")
    options.model = console.model_folder(options.model)
    import torch

    from mmprime.engine import Schedule
    from mmprime.evaluation.transitions import by_level, first_of_levels, level_names, transitions
    from mmprime.models import load_model

    _, canvas, entries = load_model(options.model)
    powers = options.level_powers or entries.get("level_powers")
    if not powers:
        raise ValueError(
            f"the model at {options.model} was trained under one schedule for all its digits; give --level-powers"
        )
    schedule = Schedule.levels(powers, canvas)
    names = level_names(canvas)
    times = torch.linspace(0, 1, _TIMES, dtype=torch.float64)
    lines = [Line(name, times.tolist(), row) for name, row in zip(names, by_level(schedule, canvas, times).T.tolist())]
    plot_schedule(options.out, lines, transitions(schedule, canvas, options.steps).T.tolist())
    for name, power in zip(names, first_of_levels(canvas, schedule.powers)):  # type: ignore[attr-defined]
        print(f"{name}: α = 1 - t^{power:g}")
    print(f"figure in {options.out}")
