"""A planned order mixed with a rule: of the units revealed at each step a share comes in the order, the rest by rule.

    D_k units revealed after step k, as the rule's pace says;     ⌊share · D_k⌋ of them in the order
    at step k the order reveals its next  ⌊share · D_k⌋ - ⌊share · D_{k-1}⌋  masked units,
    and the rule chooses the others among what is masked then

The order keeps reveals apart (a low-discrepancy order spreads them over the picture), the rule takes what is clear.
Share 1 is the order, share 0 the rule. The order may name any digit of a token; the rule rates a token by the digit
that was next at the beginning of the step. A rule that looks at distributions only is exact one unit at a time.

No paper: the rules are those of `confidence.py`, `margin.py` and `entropy.py`, the orders those of planned samplers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..plan import Plan
from ..schedule import Schedule
from .base import CountPlanned, Memory, Paced, Reveal, Sampler, Start, View, check_steps
from .confidence import Confidence
from .halton import Halton


@dataclass(frozen=True)
class Mixture(Sampler):
    """a share of every step in the order of a plan, the rest as a rule chooses

    plan: the planned sampler whose order it is; rule: a paced sampler. Both take the steps and the unit from here.
    Raises ValueError on a share outside [0, 1].
    """

    steps: int = 16
    share: float = 0.5
    plan: CountPlanned = field(default_factory=Halton)
    rule: Paced = field(default_factory=lambda: Confidence(pace=Schedule.linear()))
    name: ClassVar[str] = "mixture"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}; 1 is the plan alone, 0 the rule alone")

    @property
    def unit_of(self) -> str:
        return self.plan.unit_of

    @property
    def paced(self) -> Paced:
        """The rule with the steps and the unit of the mixture."""
        return replace(self.rule, steps=self.steps, unit=self.unit_of)

    @property
    def sharpness(self) -> float:
        return self.rule.sharpness

    def begin(self, start: Start) -> Memory:
        order = replace(self.plan, steps=start.canvas.num_subtokens).plan(start)  # one unit a step
        return {**self.paced.begin(start), "order": order.rank}

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return self.rule.describe(probs, value, index, memory)

    def select(self, view: View) -> Reveal:
        if view.step >= self.steps:
            return Reveal(view.masked)
        rule = self.paced
        quota, done = rule.quota(view), view.total - view.left
        planned = self._planned(done + quota) - self._planned(done)
        by_plan = self._next(view, planned)
        masked = view.masked & ~by_plan
        rest = replace(view, masked=masked, candidate=view.canvas.tokens_with(masked), left=view.left - planned)
        by_rule = rule.select(rest).reveal & (quota > planned)[:, None]
        return Reveal(by_plan | by_rule)

    def _planned(self, done: Tensor) -> Tensor:
        """(A,): how many of the first `done` units come in the plan's order."""
        return (self.share * done.double() + 1e-9).floor().long()

    def _next(self, view: View, count: Tensor) -> Tensor:
        """(A, N): the next `count` masked units of the plan."""
        rank = view.memory["order"][view.example]
        left = Plan(torch.where(view.masked, rank, 0), int(rank.max())).compact().rank
        return view.masked & (left <= count[:, None])
