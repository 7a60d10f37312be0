"""What is scored given what: a modality given the others, everything at once, a box of the picture given the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmprime.engine import Canvas

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class EvaluationTask:
    """given, absent (N,) bool: sub-tokens visible from the start, masked for ever. scored: the spans of the rest."""

    name: str
    scored: tuple[str, ...]
    given: Tensor
    absent: Tensor

    def num_tokens(self, canvas: Canvas) -> int:
        """How many tokens are scored, the positions of padding among them (`Sizes.tokens` leaves these out)."""
        free = ~(self.given | self.absent)
        return len(canvas.token_of[free].unique())


def evaluation_tasks(canvas: Canvas, boxes: Sequence[Box] = ()) -> list[EvaluationTask]:
    """All spans at once; with two spans also each given the other; then each box (x0, y0, x1, y1) of image codes,
    x1 and y1 excluded, given all the rest. Raises ValueError on a box outside the grid."""
    none = torch.zeros(canvas.num_subtokens, dtype=torch.bool)
    names = [span.name for span in canvas.spans]
    everything = EvaluationTask("joint" if len(names) > 1 else names[0], tuple(names), none, none)
    single = []
    if len(names) > 1:
        for name in reversed(names):
            others = " ".join(other for other in names if other != name)
            single.append(EvaluationTask(f"{name}|{others}", (name,), ~canvas.mask(name), none))
    regions = [
        EvaluationTask(f"image[{','.join(map(str, box))}]|rest", ("image",), ~canvas.mask("image", box=box), none)
        for box in boxes
    ]
    return [*single, everything, *regions]


def choose_tasks(known: Sequence[EvaluationTask], only: Iterable[str] | None) -> list[EvaluationTask]:
    """The tasks of those names, or all. Raises ValueError on an unknown one."""
    if only is None:
        return list(known)
    by_name = {task.name: task for task in known}
    for name in (wanted := list(only)):
        if name not in by_name:
            raise ValueError(f"no task {name!r} on this canvas; it has {', '.join(by_name)}")
    return [by_name[name] for name in wanted]
