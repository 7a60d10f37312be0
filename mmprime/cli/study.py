"""Train and measure the cells of a study, and show what came out: mmprime study run|table|plot|frontier STUDY.yaml

A cell that is done is not run again; a cell that was stopped goes on where it stood.
Exit codes: 0 done, 2 a mistake in what was asked (one line), 130 stopped after saving; all of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from . import console

if TYPE_CHECKING:
    from mmprime.studies.spec import Study


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and measure what is not done yet")
    run.add_argument("--only", default="", help="cells whose name contains this")
    run.add_argument("--part", type=_part, default=(0, 1), metavar="I/N", help="every N-th cell, from the I-th on")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="in every cell: run.precision=fp32"
    )
    show = commands.add_parser("table", help="a Markdown table of what is done")
    show.add_argument("--out", type=console.out_file, help="write it to this file too")
    show.add_argument("--against", default="", metavar="CELL", help="compare with this cell instead of the first")
    plot = commands.add_parser("plot", help="differences to the first cell against the number of steps")
    plot.add_argument("--only", default="", help="bases whose name contains this")
    plot.add_argument("--out", type=console.out_file, required=True, help="a .png, .svg or .pdf file")
    frontier = commands.add_parser("frontier", help="bounds against seconds of training and of sampling")
    frontier.add_argument("--only", default="", help="bases whose name contains this")
    frontier.add_argument("--out", type=console.out_file, help="draw a figure too: a .png, .svg or .pdf file")
    for command in (run, show, plot, frontier):
        command.add_argument("study", help="a YAML file, see benchmarks/studies/")
    return parser.parse_args(arguments)


def _part(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    part = console.whole(first), console.positive(count)
    if part[0] >= part[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the parts of {part[1]} are 0 to {part[1] - 1}")
    return part


def study(options: argparse.Namespace) -> None:
    """Run the command."""
    console.require_path(options.study, "STUDY")
    from mmprime.studies.spec import Study

    chosen = Study.load(options.study)
    {"run": run, "table": show_table, "plot": plot, "frontier": show_frontier}[options.command](chosen, options)


def run(chosen: Study, options: argparse.Namespace) -> None:
    """Cell after cell."""
    from mmprime.studies.run import run_cell

    first, count = options.part
    cells = [cell for cell in chosen.cells() if options.only in cell.name][first::count]
    if not cells:
        raise ValueError(f"no cell's name contains {options.only!r}")
    for number, cell in enumerate(cells):
        print(f"[{number + 1}/{len(cells)}] {cell.name}", flush=True)
        cell = dataclasses.replace(cell, overrides=(*cell.overrides, *options.set))
        rows = run_cell(chosen, cell, options.typed)
        print("  " + "; ".join(f"{row.metric} {row.value:.4f}" for row in rows[:3]), flush=True)


def show_table(chosen: Study, options: argparse.Namespace) -> None:
    """Tables of each base: bounds, their differences to the first cell, and samples where some were drawn."""
    from mmprime.io import write_text
    from mmprime.studies.report import bounds, gaps, groups, samples

    chosen = dataclasses.replace(chosen, first=options.against)
    done = {base: [group.name for group in groups(chosen, base)] for base in chosen.bases}
    if options.against and not any(options.against in names for names in done.values()):
        names = ", ".join(dict.fromkeys(name for names in done.values() for name in names))
        raise ValueError(f"--against {options.against!r}: no cell of that name is done; there are {names}")
    parts = []
    for base in filter(done.get, chosen.bases):
        parts.append(f"### {base}, nats/token\n\n{bounds(chosen, base)}\n")
        parts.append(f"### {base}, against the first, in per cent\n\n{gaps(chosen, base)}\n")
        if quality := samples(chosen, base):
            parts.append(f"### {base}, samples\n\n{quality}\n")
    if options.out:
        write_text(options.out, "\n".join(parts))
    print("\n".join(parts))


def plot(chosen: Study, options: argparse.Namespace) -> None:
    """A panel a base."""
    from mmprime.evaluation.plots import plot_panels, require_plots
    from mmprime.studies.report import gap_lines

    require_plots(options.out)
    panels = [
        (f"{base}: T-step NELBO against the first cell, %", lines)
        for base in chosen.bases
        if options.only in base and (lines := gap_lines(chosen, base))
    ]
    if not panels:
        raise ValueError(f"no base whose name contains {options.only!r} has cells that are done")
    plot_panels(options.out, panels, "steps T", log_x=True)
    print(f"{len(panels)} panels in {options.out}")


def show_frontier(chosen: Study, options: argparse.Namespace) -> None:
    """Tables of each base: bounds by seconds of training and of sampling; a figure with their fronts."""
    from mmprime.evaluation.plots import plot_fronts, require_plots
    from mmprime.studies.frontier import budget_table, cost_table, panel, sampling_costs, training_costs

    if options.out:
        require_plots(options.out)
    panels = []
    for base in (base for base in chosen.bases if options.only in base):
        training, sampling = training_costs(chosen, base), sampling_costs(chosen, base)
        if training and sampling:
            print(f"### {base}, training\n\n{cost_table(training)}\n")
            print(f"### {base}, sampling: bound (T) within the time of a sample\n\n{budget_table(sampling)}\n")
            panels += [panel(training, f"{base}: training"), panel(sampling, f"{base}: sample")]
    if not panels:
        raise ValueError(f"no base whose name contains {options.only!r} has cells with seconds in {chosen.seconds}")
    if options.out:
        plot_fronts(options.out, panels)
        print(f"{len(panels)} panels in {options.out}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = sys.argv[1:] if arguments is None else arguments

    def work() -> None:
        options = parse(typed)
        options.typed = console.typed("study", typed)
        study(options)

    return console.run(work)


if __name__ == "__main__":
    raise SystemExit(main())
