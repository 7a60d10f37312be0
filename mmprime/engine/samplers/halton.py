"""Halton order: tokens along a low-discrepancy sequence, so that every step spreads over the picture.

Source: Besnier et al., "Halton Scheduler for Masked Generative Image Transformer", arXiv 2503.17076.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..order import Order, halton_priority
from ..plan import random_order
from .base import CountPlanned, Start


@dataclass(frozen=True)
class Halton(CountPlanned):
    """tokens spread evenly over the picture (low-discrepancy points)"""

    name: ClassVar[str] = "halton"

    def order(self, start: Start) -> Order:
        order = random_order(start.canvas, "independent", start.batch, start.streams, start.given, start.absent)
        return order.by(halton_priority(start.canvas, start.streams))
