"""What a run tells: ``log.jsonl`` (one JSON object a line), TensorBoard if installed, a progress bar.

Each line has ``step`` and ``kind`` ("train", "validate", ...). When a run is resumed, lines of steps that will be done
again are cut off first, so the file reads as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from mmprime.io import split_lines, ticks, write_text


class RunLog:
    """Log of one run, in ``directory``, continued after ``step``; off if ``directory`` is None.

    ``events_done``: whether the validation and samples of ``step`` are done and their lines are to be kept.
    """

    def __init__(self, directory: Path | None, step: int = 0, events_done: bool = False) -> None:
        self.path = directory / "log.jsonl" if directory else None
        self._board = None
        if directory is None or self.path is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept, odd = _cut(self.path.read_text(encoding="utf-8", errors="replace"), step, events_done)
            write_text(self.path, kept)
            if odd:
                print(f"{self.path}: left out {odd} lines that are no log entries (torn by a kill, or altered)")
        self._board = _tensorboard(directory / "tensorboard", step)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line, and the numbers among ``values`` to TensorBoard."""
        if self.path is None:
            return
        with self.path.open("a") as stream:
            stream.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


class Window:
    """Means of numbers since the last log line; stored in checkpoints, so that resumed lines agree."""

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = dict(sums or {})  # name -> [sum, count]

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            entry = self.sums.setdefault(name, [0.0, 0.0])
            entry[0] += value
            entry[1] += 1

    def merge(self, other: dict[str, list[float]]) -> None:
        for name, (total, count) in other.items():
            entry = self.sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += count

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in sorted(self.sums.items())}


class Progress:
    """A bar counted in samples on a terminal; elsewhere plain lines, each with throughput and time left."""

    def __init__(self, steps: int, samples_per_step: int, step: int, enabled: bool) -> None:
        self.enabled, self.steps, self.per_step = enabled, steps, samples_per_step
        self._began, self._first, self._mark = time.monotonic(), step, (time.monotonic(), step)
        total, initial = steps * samples_per_step, step * samples_per_step
        self.bar = ticks("training", " samples", total, enabled, initial)

    def advance(self) -> None:
        self.bar.update(self.per_step)

    def say(self, text: str) -> None:
        """Print a line beside the bar."""
        if self.enabled:
            self.bar.write(text)

    def rate(self, step: int) -> float:
        """Samples per second since the last call."""
        now, (then, before) = time.monotonic(), self._mark
        self._mark = (now, step)
        return (step - before) * self.per_step / max(now - then, 1e-9)

    def left(self, step: int) -> str:
        """Time left, h:mm:ss, at the mean speed since this process began (validation included)."""
        done = max(1, step - self._first)
        seconds = int((time.monotonic() - self._began) / done * (self.steps - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def close(self) -> None:
        self.bar.close()


def numbers(values: dict[str, float]) -> str:
    """``name 1.234  other 0.0012`` for printing."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _cut(text: str, step: int, events_done: bool) -> tuple[str, int]:
    """The lines of steps that will not be done again, and the number of lines that are no entries."""
    kept, odd = [], 0
    for line in split_lines(text):
        try:
            entry: Any = json.loads(line) if line else {"step": math.inf, "kind": ""}
            at, kind = float(entry["step"]), entry["kind"]
        except (ValueError, KeyError, TypeError, RecursionError):
            odd += 1
            continue
        if at < step or (at == step > 0 and (events_done or kind == "train")):
            kept.append(line + "\n")
    return "".join(kept), odd


def _tensorboard(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), purge_step=step + 1 if step else None)
