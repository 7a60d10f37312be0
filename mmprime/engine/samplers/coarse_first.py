"""Coarse-first order: the coarse digits of all tokens before any finer one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..order import Order, class_priority
from ..plan import random_order
from .base import CountPlanned, Start


@dataclass(frozen=True)
class CoarseFirst(CountPlanned):
    """the coarse digits of all tokens first, then the next ones"""

    name: ClassVar[str] = "coarse_first"

    def order(self, start: Start) -> Order:
        order = random_order(start.canvas, "independent", start.batch, start.streams, start.given, start.absent)
        return order.by(class_priority(start.canvas, "digit").expand(start.batch, -1))
