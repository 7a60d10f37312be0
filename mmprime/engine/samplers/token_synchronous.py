"""Token-synchronous order: whole tokens in random order, plain masked diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..order import Order
from ..plan import random_order
from .base import CountPlanned, Start


@dataclass(frozen=True)
class TokenSynchronous(CountPlanned):
    """whole tokens in random order: plain masked diffusion"""

    name: ClassVar[str] = "token_synchronous"

    @property
    def unit_of(self) -> str:
        return "token"

    def order(self, start: Start) -> Order:
        return random_order(start.canvas, "token_synchronous", start.batch, start.streams, start.given, start.absent)
