"""A plan mixed with a rule: of the units shown at each step a share comes in the plan's order, the rest by the rule.

    D_k units shown after step k, as the rule's pace says;     ⌊share · D_k⌋ of them in the plan's order
    at step k the plan shows the next  ⌊share · D_k⌋ - ⌊share · D_{k-1}⌋  hidden units of its order,
    and the rule chooses the others among what is hidden then

The plan keeps reveals apart (a low-discrepancy order spreads them over the picture), the rule takes what is clear.
Share 1 is the plan, share 0 the rule. The plan may name any digit of a token; the rule judges a token by the digit that
was next at the beginning of the step. If the rule looks at laws only, the law is exact one unit at a time.

No paper: the rules are those of `confidence.py`, `margin.py` and `entropy.py`, the orders those of `Plan`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..canvas import Canvas
from ..plan import Plan
from ..policy import Digits, Look, Memory, Paced, Policy


class Mixture(Policy):
    """order: a plan of one unit a step, with the units of the rule. Raises ValueError on a share outside [0, 1]."""

    def __init__(self, order: Plan, rule: Paced, share: float = 0.5) -> None:
        super().__init__(rule.unit)
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {share}; 1 is the plan alone, 0 the rule alone")
        self.order, self.rule, self.share = order, rule, share
        self.features = rule.features

    @property
    def sharpness(self) -> float:
        return self.rule.sharpness

    def remember(self, batch: int, canvas: Canvas) -> Memory:
        if len(self.order.rank) != batch:
            raise ValueError(f"a plan for {len(self.order.rank)} examples, {batch} to draw; build it for as many")
        return {**self.rule.remember(batch, canvas), "order": self.order.rank.clone()}

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return self.rule.describe(law, value, place, memory)

    def choose(self, look: Look) -> Digits:
        if look.step >= self.rule.steps:
            return Digits(look.hidden)
        quota, done = self.rule.quota(look), look.total - look.left
        planned = self._planned(done + quota) - self._planned(done)
        by_plan = self._next(look, planned)
        hidden = look.hidden & ~by_plan
        rest = replace(look, hidden=hidden, candidate=look.canvas.tokens_with(hidden), left=look.left - planned)
        by_rule = self.rule.choose(rest).digits(rest, self.unit).reveal & (quota > planned)[:, None]
        return Digits(by_plan | by_rule)

    def _planned(self, done: Tensor) -> Tensor:
        """(B,): how many of the first `done` units come in the plan's order."""
        return (self.share * done.double() + 1e-9).floor().long()

    def _next(self, look: Look, count: Tensor) -> Tensor:
        """(B, N): the next `count` hidden units of the plan."""
        order = look.memory.get("order", self.order.rank)
        rank = order[look.example.to(order.device)].to(look.hidden.device)
        if bool((rank[look.hidden] < 1).any()):
            raise ValueError(
                "the plan leaves hidden sub-tokens out; build it with the given and absent parts of the run"
            )
        left = Plan(torch.where(look.hidden, rank, 0), int(rank.max())).compact().rank
        return look.hidden & (left <= count[:, None])
