"""Tables and figures from rows that were measured (`mmprime evaluate ... --json FILE`) and from training logs.

A line or column may only join what was measured alike: rows of other data or another reference, or of another model
where one model is meant, are refused with a ValueError that names the two files.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmprime.evaluation.metric import Measure, markdown, read_rows, require_same, show, stamp, table, to_json
from mmprime.evaluation.plots import Line, curves, plot_lines, plot_panels, plot_reliability, read_log, require_plots
from mmprime.io import write_text

from . import agreement, card, console, schedule_figure
from .evaluations import calibration

SAME_TASK = ("data_hash", "reference_hash")


@dataclasses.dataclass(frozen=True)
class Row:
    """A measurement and the name of the file it comes from."""

    file: str
    measure: Measure

    @property
    def setting(self) -> str:
        """Sampler and guidance in words, "" without any."""
        guided = "" if self.measure.guidance is None else f"guidance {self.measure.guidance}"
        return ", ".join(part for part in (self.measure.sampler or "", guided) if part)


def read_files(files: Sequence[str]) -> list[Row]:
    """The rows of all files, each under the shortest name that tells the files apart.

    Raises ValueError on a file named twice, without rows, or that cannot be read.
    """
    if len(set(files)) < len(files):
        raise ValueError(f"{next(file for file in files if files.count(file) > 1)} is given twice")
    names = _short_names([Path(file).with_suffix("") for file in files])
    rows = [Row(name, measure) for name, file in zip(names, files) for measure in read_rows(file)]
    if not rows:
        raise ValueError(f"{', '.join(files)}: no rows")
    return rows


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as make them differ."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def require_comparable(rows: Sequence[Row], *names: str) -> None:
    """`require_same` with the files named in its complaint."""
    require_same(
        [dataclasses.replace(row.measure, metric=f"{row.measure.metric} of {row.file}") for row in rows], *names
    )


# ---------------------------------------------------------------- tables


def run_table(options: argparse.Namespace) -> None:
    """`mmprime report table`."""
    rows = read_files(options.rows)
    text = pivot(rows, options.by) + "\n\n" + sources(rows) + "\n"
    if options.out:
        write_text(options.out, text)
        print(f"table in {options.out}")
    else:
        print(text, end="")


def pivot(rows: Sequence[Row], by: str = "metric") -> str:
    """A Markdown table of value ± s.e., metrics down. by metric: one column a file; by nfe: one column an NFE.

    Raises ValueError on rows that must not stand in one line, or that would fill one cell twice.
    """
    down: Callable[[Row], tuple[str, ...]]
    across: Callable[[Row], Any]
    head: tuple[str, ...]
    same: tuple[str, ...]
    if by == "nfe":
        head, down, across = ("metric", "unit", "file"), _nfe_line, lambda row: row.measure.nfe
        columns: list[Any] = sorted({row.measure.nfe for row in rows})
        titles, same = [f"NFE {nfe:g}" for nfe in columns], (*SAME_TASK, "model_hash")
    else:
        head, down, across = ("metric", "unit", "NFE"), _metric_line, lambda row: row.file
        columns = list(dict.fromkeys(row.file for row in rows))
        titles, same = columns, SAME_TASK
    lines: dict[tuple[str, ...], dict[Any, Row]] = {}
    for row in rows:
        cells = lines.setdefault(down(row), {})
        if across(row) in cells:
            raise ValueError(f"{row.file} has two rows {' / '.join(down(row))} (NFE {row.measure.nfe:g}); keep one")
        cells[across(row)] = row
    for cells in lines.values():
        require_comparable(list(cells.values()), *same)
    body = [
        [*names, *[show(cells[column].measure) if column in cells else "" for column in columns]]
        for names, cells in lines.items()
    ]
    return markdown([*head, *titles], body, words=range(len(head)))


def _metric_line(row: Row) -> tuple[str, ...]:
    return (_named(row), row.measure.unit, f"{row.measure.nfe:g}")


def _nfe_line(row: Row) -> tuple[str, ...]:
    return (_named(row), row.measure.unit, row.file)


def _named(row: Row) -> str:
    return f"{row.measure.metric} ({row.setting})" if row.setting else row.measure.metric


def sources(rows: Sequence[Row]) -> str:
    """A line for each file and command: what was measured, on what, and how to get it again."""
    lines: dict[str, None] = {}
    for row in rows:
        about = [f"{name} {value}" for name in ("model_hash", *SAME_TASK) if (value := getattr(row.measure, name))]
        lines[f"- {row.file}: `{row.measure.command}`" + (f" ({', '.join(about)})" if about else "")] = None
    return "\n".join(lines)


# ---------------------------------------------------------------- quality against NFE


def run_nfe(options: argparse.Namespace) -> None:
    """`mmprime report nfe`."""
    require_plots(options.out)
    rows = choose_metric(read_files(options.rows), options.metric, options.unit)
    lines = nfe_lines(rows)
    measured = [nfe for line in lines for nfe in line.x]
    wide = min(measured) > 0 and max(measured) >= 8 * min(measured)
    label = f"{options.metric} ({rows[0].measure.unit})"
    plot_lines(options.out, lines, "forward passes an example (NFE)", label, log_x=wide)
    print(f"{len(rows)} rows, {len(lines)} lines in {options.out}")


def choose_metric(rows: Sequence[Row], metric: str, unit: str | None = None) -> list[Row]:
    """The rows of one metric in one unit. Raises ValueError naming the metrics or units there are."""
    known = list(dict.fromkeys(row.measure.metric for row in rows))
    measured = [row for row in rows if row.measure.metric == metric]
    if not measured:
        near = difflib.get_close_matches(metric, known, n=3, cutoff=0.0)
        raise ValueError(f"no row has metric {metric!r}; nearest: {'; '.join(near)}")
    units = list(dict.fromkeys(row.measure.unit for row in measured))
    if unit is None and len(units) > 1:
        raise ValueError(f"{metric!r} has the units {', '.join(units)}; choose one by --unit")
    chosen = [row for row in measured if unit in (None, row.measure.unit)]
    if not chosen:
        raise ValueError(f"{metric!r} has no row in {unit!r}; units: {', '.join(units)}")
    return chosen


def nfe_lines(rows: Sequence[Row]) -> list[Line]:
    """A line for each file and sampler (and seed, where one file has several), points by NFE.

    Raises ValueError on rows of several models in a line, of different data or references, or at one NFE twice.
    """
    require_comparable(rows, *SAME_TASK)
    seeds: dict[tuple[str, str], set[int | None]] = {}
    for row in rows:
        seeds.setdefault((row.file, row.setting), set()).add(row.measure.seed)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        several = len(seeds[row.file, row.setting]) > 1
        parts = (row.file, row.setting, f"seed {row.measure.seed}" if several else "")
        lines.setdefault(", ".join(part for part in parts if part), []).append(row)
    plotted = []
    for label, points in lines.items():
        require_comparable(points, "model_hash")
        points = sorted(points, key=lambda row: row.measure.nfe)
        at = [row.measure.nfe for row in points]
        if len(set(at)) < len(at):
            raise ValueError(f"{label} has {points[0].measure.metric!r} twice at one NFE ({at}); keep one row of each")
        plotted.append(Line(label, at, [row.measure.value for row in points], [row.measure.stderr for row in points]))
    return plotted


# ---------------------------------------------------------------- loss curves


def run_loss(options: argparse.Namespace) -> None:
    """`mmprime report loss`."""
    require_plots(options.out)
    training, validation, unit = [], [], ""
    for name, run in zip(_short_names([Path(run) for run in options.runs]), options.runs):
        first, second = curves(read_log(run), name if len(options.runs) > 1 else "")
        training += first
        validation += second
        unit = " (nats/token)" if any("nelbo" in line.label or "bound" in line.label for line in second) else unit
        unit = " (nats/position)" if any("text and end" in line.label for line in second) else unit  # with padding
    panels: list[tuple[str, Sequence[Line]]] = [(f"training loss{unit}", training)]
    if validation:
        per = "nats per example" if all("bound" in line.label for line in validation) else "nats/token"
        panels.append((f"validation NELBO ({per})", validation))
    plot_panels(options.out, panels, "training examples seen")
    print(f"{len(training)} training and {len(validation)} validation curves in {options.out}")


# ---------------------------------------------------------------- calibration


def run_calibration(options: argparse.Namespace) -> None:
    """`mmprime report calibration`: the rows of `mmprime.cli.evaluations.calibration` and their reliability diagram."""
    require_plots(options.out)
    options.model = console.model_folder(options.model)
    console.require_path(options.data, "--data")
    from mmprime.evaluation.provenance import averaged_by, model_hash, versions

    reliability = list(calibration.reliability_curves(options))
    rows = stamp(
        [row for curve in reliability for row in curve.rows],
        command=options.command_line,
        model_hash=model_hash(options.model),
        ema=averaged_by(options.model),
        precision="fp32",
        versions=versions(),
    )
    plot_reliability(options.out, [curve.line for curve in reliability], [curve.shares for curve in reliability])
    if options.json:
        write_text(options.json, to_json(rows))
    print(table([row for row in rows if calibration.BIN not in row.metric]))
    print(f"reliability diagram in {options.out}")
    if options.json:
        print(f"rows in {options.json}")


# ---------------------------------------------------------------- the command line


def add_commands(commands: Any) -> None:
    """The sub-commands, added to an argparse sub-parsers object; each sets `run`."""
    command = commands.add_parser("table", help="a Markdown table of rows from several files")
    command.add_argument("rows", nargs="+", metavar="ROWS", help="JSON files of mmprime evaluate --json")
    command.add_argument("--by", choices=("metric", "nfe"), default="metric", help="across: files, or NFE")
    command.add_argument("--out", type=console.out_file, metavar="FILE.md")
    command.set_defaults(run=run_table)
    command = commands.add_parser("agree", help=agreement.HELP)
    agreement.add_arguments(command)
    command.set_defaults(run=agreement.run)
    command = commands.add_parser("card", help=card.HELP)
    card.add_arguments(command)
    command.set_defaults(run=card.run)
    command = commands.add_parser("nfe", help="quality against forward passes, a line a file and sampler")
    command.add_argument("rows", nargs="+", metavar="ROWS", help="JSON files of mmprime evaluate --json")
    command.add_argument("--metric", required=True)
    command.add_argument("--unit", help="where the metric stands in several units")
    command.add_argument("--out", type=console.out_file, required=True, metavar="FILE.png")
    command.set_defaults(run=run_nfe)
    command = commands.add_parser("loss", help="training loss and validation bounds against examples seen")
    command.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folders of runs, with their log.jsonl")
    command.add_argument("--out", type=console.out_file, required=True, metavar="FILE.png")
    command.set_defaults(run=run_loss)
    command = commands.add_parser("calibration", help=calibration.HELP)
    calibration.add_arguments(command)
    command.add_argument("--seed", type=console.whole, default=0)
    command.add_argument("--out", type=console.out_file, required=True, metavar="FILE.png")
    command.add_argument("--json", type=console.out_file, metavar="FILE", help="write the rows as JSON")
    command.set_defaults(run=run_calibration)
    command = commands.add_parser("schedule", help=schedule_figure.HELP)
    schedule_figure.add_arguments(command)
    command.add_argument("--out", type=console.out_file, required=True, metavar="FILE.png")
    command.set_defaults(run=schedule_figure.run)
