"""The table of a study: a JSON file with a line a cell, and beside it the nats of each example in one safetensors file.

    [{"cell": NAME, "common": {FIELD: VALUE}, "columns": [FIELD, ...], "rows": [[VALUE, ...], ...]}, ...]

`common` are the fields of `Measure` that all rows of a cell share (seed, hashes, versions, command), written once;
a field left out has its default. The nats are half precision, under "CELL: METRIC".
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mmprime.evaluation import Measure
from mmprime.evaluation.metric import measure_of
from mmprime.io import whole_file, write_text

Nats = dict[str, Tensor]


def read_results(file: Path) -> dict[str, list[Measure]]:
    """The rows of each cell that is done; none if there is no file. Raises ValueError naming the file and the cell."""
    if not file.is_file():
        return {}
    cell = ""
    try:
        table = {}
        for entry in json.loads(file.read_text(encoding="utf-8")):
            cell = entry["cell"]
            table[cell] = [
                measure_of({**entry["common"], **dict(zip(entry["columns"], row, strict=True))})
                for row in entry["rows"]
            ]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is no table of a study, at cell {cell!r}: {error}") from error
    return table


def read_nats(file: Path) -> dict[str, Nats]:
    """By cell and metric, the nats (n,) of each example; none if there is no file."""
    by_cell: dict[str, Nats] = {}
    for name, nats in load_file(file).items() if file.is_file() else ():
        cell, _, metric = name.rpartition(": ")
        by_cell.setdefault(cell, {})[metric] = nats
    return by_cell


def write_results(file: Path, table: Mapping[str, Sequence[Measure]]) -> None:
    """A line a cell, cells by name."""
    lines = [
        json.dumps(_packed(cell, table[cell]), ensure_ascii=False, separators=(",", ":")) for cell in sorted(table)
    ]
    write_text(file, "[\n" + ",\n".join(lines) + "\n]\n")


def write_nats(file: Path, nats: Mapping[str, Nats]) -> None:
    """Half precision."""
    with whole_file(file) as temporary:
        flat = {f"{cell}: {metric}": values.half() for cell, kept in nats.items() for metric, values in kept.items()}
        save_file(flat, temporary)


def add_cell(file: Path, lock: Path, cell: str, rows: Sequence[Measure], nats: Nats) -> None:
    """Add what one cell gave to the table `file` and to the nats beside it; processes that hold `lock` take turns."""
    with _turn(lock):
        beside = file.with_suffix(".safetensors")
        write_nats(beside, {**read_nats(beside), cell: nats})
        write_results(file, {**read_results(file), cell: rows})


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _packed(cell: str, rows: Sequence[Measure]) -> dict[str, Any]:
    values = [asdict(row) for row in rows]
    same = [
        name for name in (field.name for field in fields(Measure)) if all(v[name] == values[0][name] for v in values)
    ]
    common = {name: values[0][name] for name in same if values[0][name] != _default(name)}
    columns = [field.name for field in fields(Measure) if field.name not in same]
    return {"cell": cell, "common": common, "columns": columns, "rows": [[v[name] for name in columns] for v in values]}


def _default(name: str) -> Any:
    field = next(field for field in fields(Measure) if field.name == name)
    return field.default_factory() if field.default_factory is not MISSING else field.default
