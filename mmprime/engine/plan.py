"""Plans: at which step each sub-token of an example becomes visible.

    rank[n] = 0 given,  k in 1..K revealed at step k,  -1 (`ABSENT`) never

Sampling executes a plan, likelihood scores one, training scores one random step of a random one. The distribution of
a plan never looks at the data, which is what makes E_plan[-log p(x | plan)] a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .canvas import Canvas
from .masking import Masking, masking_of
from .order import Order, class_priority, halton_priority
from .rng import Randomness, generators, uniforms
from .schedule import Schedule

ABSENT = -1
_PLAN_STREAM = 1


@dataclass(frozen=True)
class Plan:
    """rank (B, N) int64 and the number of steps K. Raises ValueError on ranks outside -1..K."""

    rank: Tensor
    num_steps: int

    def __post_init__(self) -> None:
        if self.rank.ndim != 2 or self.rank.dtype != torch.int64:
            raise ValueError(f"ranks are int64 (B, N), got {self.rank.dtype} {tuple(self.rank.shape)}")
        low, high = (int(self.rank.min()), int(self.rank.max())) if self.rank.numel() else (0, 0)
        if low < ABSENT or high > self.num_steps:
            raise ValueError(f"ranks span [{low}, {high}], a plan of {self.num_steps} steps has [-1, {self.num_steps}]")

    @property
    def steps_used(self) -> Tensor:
        """(B, K) bool: whether example b reveals anything at step k + 1."""
        used = torch.zeros(len(self.rank), self.num_steps + 2, dtype=torch.bool, device=self.rank.device)
        used.scatter_(1, self.rank + 1, True)
        return used[:, 2:]

    def compact(self) -> Plan:
        """The same reveals in the same order without idle steps, for each example on its own; what is sampled by it
        has the same distribution."""
        used = self.steps_used
        renamed = torch.cat(
            [used.new_tensor([[ABSENT, 0]], dtype=torch.int64).expand(len(used), 2), used.cumsum(-1)], 1
        )
        return Plan(renamed.gather(1, self.rank + 1), int(used.sum(-1).max()) if used.numel() else 0)

    @classmethod
    def by_time(cls, order: Order, schedule: Schedule, steps: int) -> Plan:
        """Reveal times cut by a uniform grid: step k reveals τ in [1 - k/K, 1 - (k-1)/K); steps may be idle.

        Raises ValueError on steps < 1.
        """
        if steps < 1:
            raise ValueError(f"a plan needs at least one step, got {steps}")
        time = schedule.inverse(order.key.clamp(0, 1))
        return cls(_mark((steps - (time * steps).floor()).clamp(1, steps).long(), order), steps)

    @classmethod
    def by_count(cls, order: Order, per_step: int = 1, steps: int | None = None, pace: Schedule | None = None) -> Plan:
        """An order cut by the number of units, `per_step` a step or all in at most `steps`; empty steps are dropped.

        pace: the share of the units revealed after step k of K is α(1 - k/K); None is linear. Raises ValueError on
        numbers below 1, both numbers at once, or a pace without steps.
        """
        if steps is not None and per_step != 1:
            raise ValueError(f"give either per_step ({per_step}) or steps ({steps}), not both")
        if steps is None and pace is not None:
            raise ValueError("a pace shapes a number of steps; give steps as well")
        if per_step < 1 or (steps is not None and steps < 1):
            raise ValueError(f"per_step and steps must be at least 1, got {per_step} and {steps}")
        keys = order.key.masked_fill(~order.is_unit, torch.inf).sort(-1).values
        before = torch.searchsorted(keys, order.key)  # units before this one
        if steps is None:
            rank = before // per_step + 1
        else:
            alpha = (pace or Schedule.linear()).alpha(1 - torch.arange(1, steps + 1, dtype=torch.float64) / steps)
            done = (alpha * order.is_unit.sum(-1, keepdim=True) + 1e-9).floor().long()  # (B, K) units after each step
            done[:, -1] = order.is_unit.sum(-1)
            rank = torch.searchsorted(done, before, right=True) + 1
        rank = _mark(rank, order)
        return cls(rank, max(1, int(rank.max()) if rank.numel() else 0)).compact()

    @classmethod
    def by_groups(cls, order: Order, group: Tensor, steps: Sequence[int], pace: Schedule | None = None) -> Plan:
        """One group of sub-tokens after the other, each by count in its own number of steps; empty steps are dropped.

        group (N,) in 0..G-1, coarse to fine; an order in which no unit has sub-tokens of two groups. Raises ValueError
        as `by_count`.
        """
        rank, before, group = torch.zeros_like(order.key, dtype=torch.int64), 0, group.to(order.key.device)
        for number, count in enumerate(steps):
            alone = replace(order, is_unit=order.is_unit & (group == number))
            rank = torch.where(group == number, before + cls.by_count(alone, steps=count, pace=pace).rank, rank)
            before += count
        return cls(_mark(rank, order), before).compact()

    # ---------------------------------------------------------------- short forms

    @classmethod
    def ancestral(
        cls,
        canvas: Canvas,
        schedule: Schedule,
        steps: int,
        batch: int,
        generator: Randomness = None,
        given: Tensor | None = None,
        masking: str | Masking = "independent",
    ) -> Plan:
        """`by_time` of a random order."""
        process = masking_of(masking)
        replace(process, schedule=schedule).check(canvas)
        return cls.by_time(random_order(canvas, process, batch, generator, given), schedule, steps)

    @classmethod
    def first_hitting(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        steps: int | None = None,
        masking: str | Masking = "independent",
    ) -> Plan:
        """`by_count` of a random order; one unit a step has the distribution of continuous time.

        Source: Zheng et al., arXiv 2409.02908.
        """
        return cls.by_count(random_order(canvas, masking, batch, generator, given), per_step, steps)

    @classmethod
    def token_synchronous(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        steps: int | None = None,
    ) -> Plan:
        """Whole tokens in random order: plain masked diffusion."""
        return cls.first_hitting(canvas, batch, generator, per_step, given, steps, "token_synchronous")

    @classmethod
    def nested(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        steps: int | None = None,
    ) -> Plan:
        """Random order in which a token's digits come coarse before fine."""
        return cls.first_hitting(canvas, batch, generator, per_step, given, steps, "nested")

    @classmethod
    def ordered(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        by: str | Sequence[Tensor] = "digit",
        per_step: int = 1,
        given: Tensor | None = None,
        steps: int | None = None,
    ) -> Plan:
        """A fixed order of classes (`class_priority`), random inside a class."""
        order = random_order(canvas, "independent", batch, generator, given)
        return cls.by_count(order.by(class_priority(canvas, by).expand(batch, -1)), per_step, steps)

    @classmethod
    def halton(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        steps: int | None = None,
    ) -> Plan:
        """Tokens of each span in a low-discrepancy order (`halton_priority`); a token's coarse digit first."""
        streams = plan_streams(generator, batch)
        order = random_order(canvas, "independent", batch, streams, given)
        return cls.by_count(order.by(halton_priority(canvas, streams)), per_step, steps)


def plan_streams(generator: Randomness, batch: int) -> list[torch.Generator]:
    """The random streams of the plans of a batch; a list of generators as it is."""
    return generators(generator, batch, _PLAN_STREAM)


def random_order(
    canvas: Canvas,
    masking: str | Masking,
    batch: int,
    generator: Randomness = None,
    given: Tensor | None = None,
    absent: Tensor | None = None,
) -> Order:
    """An order of a masking process for each example; given, absent: None, (N,) or (B, N) bool."""
    u = uniforms(plan_streams(generator, batch), canvas.num_subtokens)
    return masking_of(masking).order(canvas, u, canvas.full_mask(given, batch), canvas.full_mask(absent, batch))


def _mark(rank: Tensor, order: Order) -> Tensor:
    return rank.masked_fill(order.key == -torch.inf, 0).masked_fill(order.key == torch.inf, ABSENT)
