"""A measured number with all that is needed to believe it and to get it again; lists of them as tables and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measure:
    """One row of a report.

    stderr: one standard error of `value`, None where there is no honest one. nfe: forward passes that the denoiser
    really made for one example, in the mean: to sample it, or to score it with all its draws (guidance counts twice; a
    scorer, feature extractor or tokenizer not at all). The cost of a T-step bound is not T, which stands in its name.
    idle_steps: share of the sampler's steps that reveal nothing. guidance: scale, and schedule unless it is linear.
    ema: decay of the averaged weights, None if they are not averaged. model_hash, data_hash, reference_hash: 16 hex
    digits of what was measured (the model, or pictures and texts that come alone), on what, against what. command: what
    was typed, so that the number can be had again. None: does not apply.
    """

    metric: str
    value: float
    stderr: float | None
    unit: str
    num_samples: int
    nfe: float
    seed: int | None
    idle_steps: float | None = None
    sampler: str | None = None
    guidance: str | None = None
    ema: float | None = None
    precision: str | None = None
    model_hash: str | None = None
    data_hash: str | None = None
    reference_hash: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric} came out as {self.value}; that is no measurement")


FIELDS = tuple(field.name for field in dataclasses.fields(Measure))


def stamp(rows: Iterable[Measure], **origin: Any) -> list[Measure]:
    """The rows with fields of `origin` filled in where a row leaves them empty."""
    stamped = []
    for row in rows:
        empty = {name: value for name, value in origin.items() if getattr(row, name) in (None, "", {})}
        stamped.append(dataclasses.replace(row, **empty))
    return stamped


def require_same(rows: Sequence[Measure], *names: str) -> None:
    """Raises ValueError quoting two rows that differ in a hash of `names`: they must not be compared."""
    for name in names:
        values = {getattr(row, name): row for row in rows}
        if len(values) > 1:
            (one, first), (two, second) = list(values.items())[:2]
            raise ValueError(
                f"{first.metric!r} has {name} {one}, {second.metric!r} has {two}: these rows cannot be compared; "
                "measure both on the same"
            )


def table(rows: Sequence[Measure]) -> str:
    """Rows as a Markdown table, aligned so that it also reads well on a screen."""
    body = []
    for row in rows:
        error = "" if row.stderr is None else _number(row.stderr)
        body.append([row.metric, _number(row.value), error, row.unit, str(row.num_samples), f"{row.nfe:g}"])
    return markdown(["metric", "value", "± s.e.", "unit", "samples", "NFE"], body, words=(0, 3))


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.3e}"


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], words: Collection[int]) -> str:
    """A Markdown table with aligned columns, those of `words` to the left, the others to the right."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (head, *body)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) if i in words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) + " |"
        for row in rows
    ]
    rule = "|".join("-" * (w + 2) if i in words else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def show(row: Measure) -> str:
    """Value ± s.e. with as many decimals as the error has meaning (two digits of it), four without an error."""
    if not row.stderr:
        return f"{row.value:.4f}"
    decimals = min(6, max(0, 1 - math.floor(math.log10(row.stderr))))
    return f"{row.value:.{decimals}f} ± {row.stderr:.{decimals}f}"


def to_json(rows: Sequence[Measure]) -> str:
    """Rows as a JSON list of objects."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def read_rows(file: str | Path) -> list[Measure]:
    """What `to_json` wrote. Raises ValueError naming the file and the row that is no row."""
    try:
        entries = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} holds no rows: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{file} holds a {type(entries).__name__}, not a list of rows")
    rows = []
    for number, entry in enumerate(entries):
        odd = sorted(set(FIELDS) ^ set(entry)) if isinstance(entry, dict) else ["all"]
        if odd:
            raise ValueError(f"row {number} of {file} is no measurement: {', '.join(odd)} missing or unknown")
        if wrong := [name for name, kinds in _KINDS.items() if not _is_a(entry[name], kinds)]:
            raise ValueError(f"row {number} of {file} is no measurement: {wrong[0]} is {str(entry[wrong[0]])[:60]!r}")
        try:
            rows.append(measure_of(entry))
        except ValueError as error:
            raise ValueError(f"row {number} of {file} is no measurement: {error}") from error
    return rows


def measure_of(entry: Mapping[str, Any]) -> Measure:
    """A row of a file. Older files call level powers places, and have the kernel distance in squared distances."""
    row = Measure(**entry)
    metric = re.sub(r" places (?=[\d.,e+-]+)", " levels ", row.metric)
    kernel = metric.startswith("KID-") and row.unit == "squared distance"
    return dataclasses.replace(row, metric=metric, unit="squared MMD" if kernel else row.unit)


_NUMBER, _WORD, _NONE = (int, float), (str,), (type(None),)
_KINDS: dict[str, tuple[type, ...]] = {
    "metric": _WORD, "value": _NUMBER, "stderr": _NUMBER + _NONE, "unit": _WORD, "num_samples": (int,),
    "nfe": _NUMBER, "seed": (int, type(None)), "idle_steps": _NUMBER + _NONE, "sampler": _WORD + _NONE,
    "guidance": _WORD + _NONE, "ema": _NUMBER + _NONE, "precision": _WORD + _NONE, "model_hash": _WORD + _NONE,
    "data_hash": _WORD + _NONE, "reference_hash": _WORD + _NONE, "versions": (dict,), "command": _WORD,
}  # fmt: skip


def _is_a(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value of a JSON file is of a kind; NaN, infinities and truth values are no numbers."""
    if isinstance(value, bool) or (isinstance(value, int | float) and not abs(value) < 1e300):
        return False
    return isinstance(value, kinds)
