"""Coarse-first order: the coarse digits of all tokens before any finer one, with a budget of steps by level.

    budget b_1,...,b_G:   level d of S belongs to group ⌊d G / S⌋,   which takes K b_g / Σ b of the K steps

`budget=7,1` spends seven passes in eight on the coarse half of the levels and one on the fine half. Without a budget
steps go by the number of digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..canvas import Canvas
from ..order import Order, class_priority
from ..plan import Plan, random_order
from .base import CountPlanned, Start


@dataclass(frozen=True)
class CoarseFirst(CountPlanned):
    """the coarse digits of all tokens first, then the next ones

    budget: shares of the steps by groups of levels; pace is then that of each group. Raises ValueError on shares that
    are not > 0, more of them than levels, and steps that they do not divide into whole numbers.
    """

    budget: str = ""
    name: ClassVar[str] = "coarse_first"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            shares = self.shares
        except ValueError:
            shares = [0.0]
        if not all(0 < share < float("inf") for share in shares):
            raise ValueError(f"budget={self.budget}: shares of the steps, coarse levels first, each > 0, as 7,1")

    @property
    def shares(self) -> list[float]:
        """Of the groups of levels; none without a budget."""
        return [float(share) for share in self.budget.split(",")] if self.budget else []

    def order(self, start: Start) -> Order:
        order = random_order(start.canvas, "independent", start.batch, start.streams, start.given, start.absent)
        return order.by(class_priority(start.canvas, "digit").expand(start.batch, -1))

    def plan(self, start: Start) -> Plan:
        if not self.budget:
            return super().plan(start)
        steps, levels = self._steps_of_groups(start.canvas), start.canvas.num_levels
        group = start.canvas.digit_of * len(steps) // levels
        return Plan.by_groups(self.order(start), group, steps, self.pace)

    def _steps_of_groups(self, canvas: Canvas) -> list[int]:
        shares, levels = self.shares, canvas.num_levels
        if len(shares) > levels:
            raise ValueError(f"budget={self.budget} has {len(shares)} shares, and tokens have {levels} digit levels")
        exact = [self.steps * share / sum(shares) for share in shares]
        steps = [round(count) for count in exact]
        if any(abs(count - whole) > 1e-6 or whole < 1 for count, whole in zip(exact, steps)):
            parts = ", ".join(f"{count:g}" for count in exact)
            raise ValueError(
                f"budget={self.budget} divides {self.steps} steps into {parts}; take steps that it divides into whole "
                "numbers, or another budget"
            )
        return steps
