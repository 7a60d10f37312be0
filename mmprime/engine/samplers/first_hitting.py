"""First hitting: sub-tokens in random order, a fixed number a step; one a step is continuous time.

Source: Zheng et al., arXiv 2409.02908.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..order import Order
from ..plan import random_order
from ..schedule import Schedule
from .base import CountPlanned, Start


@dataclass(frozen=True)
class FirstHitting(CountPlanned):
    """digits in random order, a fixed number a step; no idle step"""

    schedule: Schedule = field(default_factory=Schedule.linear)
    name: ClassVar[str] = "first_hitting"

    def order(self, start: Start) -> Order:
        order = random_order(start.canvas, "independent", start.batch, start.streams, start.given, start.absent)
        return order.in_time(self.schedule.on(start.canvas))
