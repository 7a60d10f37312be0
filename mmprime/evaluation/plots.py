"""Figures of reports: lines with error bars, loss curves, reliability diagrams. Data in, one file out.

matplotlib is optional (the extra `plots`) and is imported when something is drawn. Files are .png, .svg or .pdf.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

from mmprime.io import split_lines, whole_file

FORMATS = (".png", ".svg", ".pdf")
_WIDTH, _HEIGHT, _DPI = 6.4, 4.2, 150  # inches, inches, dots an inch


@dataclass(frozen=True)
class Line:
    """A labelled line: x and y of equal length; error: one standard error of each y, None where there is none."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] | None = None


def require_plots(file: str | Path) -> None:
    """Raises ValueError when matplotlib is missing or `file` is no kind of figure; call it before long work."""
    if Path(file).suffix.lower() not in FORMATS:
        raise ValueError(f"{file} is no figure; the name must end in {', '.join(FORMATS)}")
    if util.find_spec("matplotlib") is None:
        raise ValueError("drawing needs matplotlib: pip install 'mmprime[plots]'")


def plot_lines(file: str | Path, lines: Sequence[Line], x_label: str, y_label: str, log_x: bool = False) -> None:
    """Lines with error bars against x, ticks at the x that were measured."""
    figure = new_figure(file, _WIDTH, _HEIGHT)
    axes = figure.subplots()
    _lines(axes, lines, x_label, y_label, marker="o")
    if log_x:
        axes.set_xscale("log", base=2)
    _ticks(axes, lines)
    save_figure(figure, file)


def plot_panels(
    file: str | Path, panels: Sequence[tuple[str, Sequence[Line]]], x_label: str, log_x: bool = False
) -> None:
    """Panels side by side, each (label of y, lines), over the same x; more than six lines share one legend."""
    figure = new_figure(file, 1 + (_WIDTH - 1) * len(panels), _HEIGHT)
    import matplotlib

    crowded = max(len(lines) for _, lines in panels) > 6
    grid = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axes, (y_label, lines) in zip(grid, panels):
        marker = "o" if max(len(line.x) for line in lines) <= 30 else ""
        if crowded:
            axes.set_prop_cycle(color=matplotlib.color_sequences["tab20"])
        _lines(axes, lines, x_label, y_label, marker)
        axes.xaxis.set_major_formatter(_engineering())
        if log_x:
            axes.set_xscale("log", base=2)
            _ticks(axes, lines)
        if crowded and (legend := axes.get_legend()):
            legend.remove()
    if crowded:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small")
    save_figure(figure, file)


def plot_fronts(file: str | Path, panels: Sequence[tuple[str, str, Sequence[Line], Line]]) -> None:
    """Panels side by side, each (label of x, label of y, lines, their front) over a logarithmic x: the front is a broad
    grey staircase, and a label has one colour in all panels."""
    figure = new_figure(file, 2 + (_WIDTH - 2) * len(panels), _HEIGHT)
    import matplotlib

    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    labels = [*dict.fromkeys(line.label for _, _, lines, _ in panels for line in lines)]
    colors = matplotlib.color_sequences["tab20"]
    known: dict[str, Any] = {}
    for axes, (x_label, y_label, lines, best) in zip(grid, panels):
        axes.set_prop_cycle(color=[colors[labels.index(line.label) % len(colors)] for line in lines])
        axes.step(best.x, best.y, where="post", color="0.88", linewidth=7, zorder=0)
        _lines(axes, lines, x_label, y_label, marker="o")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}" if max(best.x) < 5 * min(best.x) else "")
        known |= dict(zip(*reversed(axes.get_legend_handles_labels())))
        if legend := axes.get_legend():
            legend.remove()
    figure.legend(
        [known[label] for label in labels], labels, loc="outside right upper", frameon=False, fontsize="small"
    )
    save_figure(figure, file)


def plot_reliability(file: str | Path, lines: Sequence[Line], shares: Sequence[Sequence[float]]) -> None:
    """Share right against confidence beside the diagonal; below, how the predictions spread (shares of each line)."""
    figure = new_figure(file, 5.2, 6.6)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
    for line in lines:
        error = [each or 0.0 for each in line.error or [None] * len(line.x)]
        top.errorbar(line.x, line.y, error, label=line.label, marker="o", markersize=4, linestyle="", capsize=2)
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of predictions that are right")
    _bare(top)
    figure.legend(loc="outside upper left", frameon=False, fontsize="small")
    for line, share in zip(lines, shares):
        below.plot(line.x, share, marker="o", markersize=3, linewidth=1)
    below.set(xlabel="confidence (probability of the likeliest value)", ylabel="share of\npredictions")
    below.set_ylim(bottom=0)
    _bare(below)
    save_figure(figure, file)


def plot_maps(file: str | Path, rows: Sequence[Sequence[tuple[str, Sequence[Sequence[float]]]]], label: str) -> None:
    """Rows of maps, each (title, values (h, w)), on one colour scale; NaN stays white. label: of the scale."""
    from matplotlib.ticker import MaxNLocator

    columns = max(len(row) for row in rows)
    figure = new_figure(file, 1 + 2.2 * columns, 2.3 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    values = [cell for row in rows for _, map_ in row for line in map_ for cell in line if cell == cell]
    for axes, (title, map_) in zip(grid.flat, (map_ for row in rows for map_ in row)):
        image = axes.imshow(map_, vmin=min(values), vmax=max(values), cmap="viridis")
        axes.set_title(title, fontsize="medium")
        axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=grid, label=label, ticks=MaxNLocator(integer=True))
    save_figure(figure, file)


def plot_schedule(file: str | Path, lines: Sequence[Line], transitions: Sequence[Sequence[float]]) -> None:
    """α of every digit level against t; beside it the chances (levels, steps) that a step reveals a masked digit."""
    figure = new_figure(file, 2 * _WIDTH, max(_HEIGHT, 1 + 0.3 * len(lines)))
    import matplotlib

    left, right = figure.subplots(1, 2)
    left.set_prop_cycle(color=matplotlib.color_sequences["tab20"])
    _lines(left, lines, "time t (1: all masked)", "α(t): chance to be visible", marker="")
    steps = len(transitions[0])
    image = right.imshow(transitions, vmin=0, vmax=1, cmap="viridis", aspect="auto", extent=(0.5, steps + 0.5, 0, 1))
    height = 1 / len(lines)
    right.set_yticks([1 - (n + 0.5) * height for n in range(len(lines))], [line.label for line in lines])
    right.set(xlabel=f"step of {steps}")
    figure.colorbar(image, ax=right, label="chance that a masked digit is revealed")
    save_figure(figure, file)


# ---------------------------------------------------------------- training logs


def read_log(run: str | Path) -> list[dict[str, Any]]:
    """The entries of a run's log.jsonl, a line torn at its end left out. Raises ValueError when there is none."""
    file = Path(run, "log.jsonl")
    if not file.is_file():
        raise ValueError(f"no log.jsonl in {run}: not the folder of a run")
    try:
        lines = [line for line in split_lines(file.read_text(encoding="utf-8")) if line.strip()]
    except ValueError as error:
        raise ValueError(f"{file} is no log: {error}") from error
    entries = []
    for number, line in enumerate(lines):
        try:
            entries.append(_entry(line))
        except (ValueError, RecursionError) as error:
            if number + 1 < len(lines):
                raise ValueError(f"line {number + 1} of {file} is no log entry: {error}") from error
    return entries


def _entry(line: str) -> dict[str, Any]:
    """One line of a log. Raises ValueError on one that has no kind and step, or a curve's value that is no number."""
    entry = json.loads(line)
    if not isinstance(entry, dict) or type(entry.get("step")) is not int or entry["step"] < 0:
        raise ValueError(f"{line[:60]!r} has no step")
    curve = (key for key in entry if key == "samples" or key.startswith("loss/") or "nelbo" in key or "bound" in key)
    for key in curve:
        if not isinstance(entry[key], int | float):
            raise ValueError(f"{key} is {str(entry[key])[:60]!r}")
    return entry


def curves(entries: Sequence[dict[str, Any]], run: str = "") -> tuple[list[Line], list[Line]]:
    """(training losses, validation NELBOs with their errors) against examples seen.

    Validation is logged by step; examples a step are taken from the training lines. The joint loss of a validation is
    no bound, so it is no curve here. Raises ValueError on a log without a training line.
    """
    train = [entry for entry in entries if entry.get("kind") == "train" and entry.get("samples") and entry["step"]]
    if not train:
        raise ValueError(f"the log{f' of {run}' if run else ''} has no training line yet")
    per_step = train[-1]["samples"] / train[-1]["step"]
    first = _by_key(train, lambda key: key.startswith("loss/"), per_step, run)
    checks = [entry for entry in entries if entry.get("kind") == "validate"]
    return first, _by_key(checks, _is_bound, per_step, run)


def _is_bound(key: str) -> bool:
    return ("nelbo" in key or key.startswith("bound")) and not key.endswith("_se")


def _by_key(entries: Sequence[dict[str, Any]], wanted: Callable[[str], bool], per_step: float, run: str) -> list[Line]:
    lines = []
    for key in dict.fromkeys(key for entry in entries for key in entry if wanted(key)):
        logged = [entry for entry in entries if key in entry]
        x = [entry["step"] * per_step for entry in logged]
        label = ": ".join(part for part in (run, key) if part)
        lines.append(Line(label, x, [entry[key] for entry in logged], [entry.get(f"{key}_se") for entry in logged]))
    return lines


# ---------------------------------------------------------------- parts


def new_figure(file: str | Path, width: float, height: float) -> Any:
    """A matplotlib figure, sizes in inches. Raises ValueError as `require_plots` does."""
    require_plots(file)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _lines(axes: Any, lines: Sequence[Line], x_label: str, y_label: str, marker: str) -> None:
    for line in lines:
        known = line.error is not None and any(error is not None for error in line.error)
        error = [each or 0.0 for each in line.error or ()] if known else None
        axes.errorbar(line.x, line.y, error, label=line.label, marker=marker, markersize=4, linewidth=1.4, capsize=2)
    axes.set(xlabel=x_label, ylabel=y_label)
    if len(lines) > 1 or axes.get_legend_handles_labels()[1][1:]:
        axes.legend(frameon=False, fontsize="small")
    elif lines:
        axes.set_title(lines[0].label, fontsize="medium", loc="left")
    _bare(axes)


def _ticks(axes: Any, lines: Sequence[Line]) -> None:
    """At the x that were measured."""
    ticks = sorted({value for line in lines for value in line.x})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _engineering() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def save_figure(figure: Any, file: str | Path) -> None:
    """Write the figure; the ending of the name says which format."""
    with whole_file(file) as temporary:
        figure.savefig(temporary, dpi=_DPI)
