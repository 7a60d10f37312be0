"""Coarse-first order: the coarse digits of all tokens before any finer one, with a budget of steps by level.

    budget b_1,...,b_G:   level d of S belongs to group ⌊d G / S⌋,   which takes K b_g / Σ b of the K steps

`budget=7,1` spends seven passes in eight on the coarse half of the levels and one on the fine half. Without a budget
steps go by the number of digits, and each level is a group. Inside a group digits come level after level, or with
`unit=token` the digits of a token at once, which a chain draws one after another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..canvas import Canvas
from ..order import Order, class_priority
from ..plan import Plan, random_order
from .base import UNITS, CountPlanned, Start


@dataclass(frozen=True)
class CoarseFirst(CountPlanned):
    """the coarse digits of all tokens first, then the next ones

    budget: shares of the steps by groups of levels; pace is then that of each group. unit: what comes at once inside a
    group, a "digit" or the digits of a "token". Raises ValueError on another unit, shares that are not > 0, more of
    them than levels, and steps that they do not divide into whole numbers.
    """

    budget: str = ""
    unit: str = "digit"
    name: ClassVar[str] = "coarse_first"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r}; there are {', '.join(UNITS)}")
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
        whole, canvas, group = self.unit == "token", start.canvas, self._group(start.canvas)
        masking = "token_synchronous" if whole else "independent"
        order = random_order(canvas, masking, start.batch, start.streams, start.given, start.absent)
        if whole:
            order = replace(order, is_unit=canvas.first_in_token(order.free, group))
        priority = group.double() if whole else class_priority(canvas, "digit")
        return order.by(priority.expand(start.batch, -1))

    def plan(self, start: Start) -> Plan:
        if not self.budget:
            return super().plan(start)
        steps = self._steps_of_groups(start.canvas)
        return Plan.by_groups(self.order(start), self._group(start.canvas), steps, self.pace)

    def _group(self, canvas: Canvas) -> Tensor:
        """(N,) the group of each sub-token."""
        return canvas.digit_of * (len(self.shares) or canvas.num_levels) // canvas.num_levels

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
