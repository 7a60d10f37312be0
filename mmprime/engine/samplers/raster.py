"""Raster order: token after token, digits in order, as an autoregressive model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..order import Order, class_priority
from ..plan import random_order
from .base import CountPlanned, Start


@dataclass(frozen=True)
class Raster(CountPlanned):
    """token after token"""

    name: ClassVar[str] = "raster"

    def order(self, start: Start) -> Order:
        order = random_order(start.canvas, "independent", start.batch, start.streams, start.given, start.absent)
        return order.by(class_priority(start.canvas, "raster").expand(start.batch, -1))
