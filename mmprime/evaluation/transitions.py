"""A schedule of digit levels in numbers: α of every level, and the chances of its transitions at T steps.

    Q_g(step k) = chance that a masked digit of level g becomes visible at step k = (α_g(t) - α_g(s)) / (1 - α_g(s))

A masked digit stays masked with the rest of the chance and a visible one stays visible, so one number a level and step
says the whole transition matrix of a token: the product over its digits (`mmprime.engine.transition_matrix`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmprime.engine import Canvas, Schedule
from mmprime.engine.schedule import level_groups


def level_names(canvas: Canvas) -> list[str]:
    """Of the digit levels of all spans in turn."""
    return [f"{span.name} {level}" for span in canvas.spans for level in range(span.codec.num_digits)]


def first_of_levels(canvas: Canvas, values: Tensor) -> Tensor:
    """Values (..., N) that are alike within a digit level -> (..., G)."""
    group = level_groups(canvas)
    return values[..., [int((group == g).nonzero()[0]) for g in range(int(group.max()) + 1)]]


def by_level(schedule: Schedule, canvas: Canvas, times: Tensor) -> Tensor:
    """α (K, G) of each digit level at the times (K,)."""
    return first_of_levels(canvas, schedule.alpha(times[:, None]).expand(-1, canvas.num_subtokens))


def transitions(schedule: Schedule, canvas: Canvas, steps: int) -> Tensor:
    """(T, G): the chance that step k reveals a digit of level g that is masked before it."""
    alpha = by_level(schedule, canvas, 1 - torch.arange(steps + 1, dtype=torch.float64) / steps)
    return alpha.diff(dim=0) / (1 - alpha[:-1])
