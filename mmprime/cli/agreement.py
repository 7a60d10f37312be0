"""Were the same numbers measured again? Rows recorded earlier beside rows measured now, one by one.

    distance = |new - old| / sqrt(s.e._old² + s.e._new²)

The same command with the same seed gives the same numbers up to rounding, another seed gives others of the same errors.
A row without an error has no distance and is shown only.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mmprime.evaluation.metric import Measure, markdown, read_rows, require_same, show

from . import console

HELP = "were the same numbers measured again: row by row, in standard errors"
SAME = ("model_hash", "data_hash", "reference_hash")
Key = tuple[str, str, str | None, str | None, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("old", metavar="OLD", help="rows as recorded: a JSON file, or a folder of them")
    parser.add_argument(
        "new", metavar="NEW", help="rows measured now: a file, or a folder with files of the same names"
    )
    parser.add_argument(
        "--within",
        type=console.number_in(0, math.inf),
        default=3.0,
        help="standard errors that are still agreement (default 3)",
    )


def run(options: argparse.Namespace) -> None:
    """Print both beside each other. Raises ValueError when a row is missing, of another model or data, or too far."""
    compared = [pair for old, new in file_pairs(options.old, options.new) for pair in matched(old, new)]
    distances = [distance(old, new) for old, new in compared]
    body = [
        [old.metric, old.unit, show(old), show(new), "" if far is None else f"{far:.2f}"]
        for (old, new), far in zip(compared, distances)
    ]
    print(markdown(["metric", "unit", "recorded", "now", "s.e. apart"], body, words=(0, 1)))
    known = [far for far in distances if far is not None]
    beyond = [old.metric for (old, _), far in zip(compared, distances) if far is not None and far > options.within]
    limit = f"{options.within:g} standard errors"
    if beyond:
        raise ValueError(f"{len(beyond)} of {len(known)} rows differ by more than {limit}, first {beyond[0]!r}")
    print(f"{len(known)} rows agree within {limit} (the furthest: {max(known, default=0):.2f})")


def file_pairs(old: str, new: str) -> list[tuple[Path, Path]]:
    """The files to compare. Raises ValueError when a folder holds no rows, or the other one lacks a file of it."""
    if not Path(old).is_dir():
        return [(Path(old), Path(new))]
    files = sorted(Path(old).glob("*.json"))
    if not files:
        raise ValueError(f"{old} holds no .json file of rows")
    pairs = [(file, Path(new, file.name)) for file in files]
    absent = [str(again) for _, again in pairs if not again.is_file()]
    if absent:
        raise ValueError(f"not measured again: {', '.join(absent)}")
    return pairs


def matched(old: Path, new: Path) -> list[tuple[Measure, Measure]]:
    """Each row of `old` with the same row of `new`. Raises ValueError on one that is absent, or hashes that differ."""
    again = {_key(row): row for row in read_rows(new)}
    pairs = []
    for row in read_rows(old):
        if _key(row) not in again:
            raise ValueError(f"{new} has no row {row.metric!r} in {row.unit} at NFE {row.nfe:g}, as {old} has")
        pairs.append((row, again[_key(row)]))
        require_same(pairs[-1], *SAME)
    return pairs


def distance(old: Measure, new: Measure) -> float | None:
    """In standard errors of the difference of independent measurements; None without an error."""
    if not old.stderr or not new.stderr:
        return None
    return abs(new.value - old.value) / math.hypot(old.stderr, new.stderr)


def _key(row: Measure) -> Key:
    return row.metric, row.unit, row.sampler, row.guidance, row.nfe
