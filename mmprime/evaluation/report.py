"""A measured number with all that is needed to believe it, and lists of them as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Measure:
    """One row of a report.

    stderr: one standard error of `value`, None where there is no honest one. nfe: forward passes per example.
    command: what was typed, so that the number can be had again.
    """

    metric: str
    value: float
    stderr: float | None
    unit: str
    num_samples: int
    nfe: float
    seed: int
    command: str = ""


def table(rows: Sequence[Measure]) -> str:
    """Rows as aligned text, one a line."""
    cells = [("metric", "value", "± s.e.", "unit", "samples", "NFE")]
    for row in rows:
        error = "" if row.stderr is None else f"{row.stderr:.4f}"
        cells.append((row.metric, f"{row.value:.4f}", error, row.unit, str(row.num_samples), f"{row.nfe:g}"))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    left = (0, 3)  # words to the left, numbers to the right
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in cells
    )


def to_json(rows: Sequence[Measure]) -> str:
    """Rows as a JSON list of objects."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"
