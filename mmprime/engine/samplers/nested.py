"""Nested order: a token's digits coarse before fine, tokens in random order.

Source: HDLM, arXiv 2510.08632, is the two-level case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..order import Order
from ..plan import random_order
from .base import CountPlanned, Start


@dataclass(frozen=True)
class Nested(CountPlanned):
    """random order, the coarse digit of a token before its fine one"""

    name: ClassVar[str] = "nested"

    def order(self, start: Start) -> Order:
        return random_order(start.canvas, "nested", start.batch, start.streams, start.given, start.absent)
