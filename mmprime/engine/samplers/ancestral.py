"""Ancestral sampling: reveal times cut by a grid of times, as the finite-T bound scores it.

Source: Sahoo et al. (MDLM), arXiv 2406.07524; Chao et al. (MDM-Prime), arXiv 2505.18495.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..masking import Masking, masking_of
from ..plan import Plan, random_order
from ..schedule import Schedule
from .base import Planned, Start, check_steps


@dataclass(frozen=True)
class Ancestral(Planned):
    """reveal times cut by a grid of times; steps may be idle"""

    steps: int = 16
    schedule: Schedule = field(default_factory=Schedule.linear)
    masking: Masking = field(default_factory=lambda: masking_of("independent"))
    name: ClassVar[str] = "ancestral"

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def whole_tokens(self) -> bool:
        return self.masking.whole_tokens

    def plan(self, start: Start) -> Plan:
        schedule = self.schedule.on(start.canvas)
        process = replace(self.masking, schedule=schedule)
        process.check(start.canvas)
        order = random_order(start.canvas, process, start.batch, start.streams, start.given, start.absent)
        return Plan.by_time(order, schedule, self.steps)
