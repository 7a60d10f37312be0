"""What a masking process is: a random order in which sub-tokens are revealed, with a schedule.

Every sub-token n draws u_n ~ U(0, 1); a process turns the draws of an example into keys, small is revealed early
(visible at time t iff its key is at most α(t)). Everything else follows: what is visible when, what may be revealed
next from a state and how much it weighs in the bound, what one step of T reveals, and all plans of a tiny canvas.

By count: masking exactly m of the n units, m uniform in 1..n, with weight n/m on the sum over masked units is the
continuous-time bound with t integrated out (∫ C(n,m) t^{m-1} (1-t)^{n-m} dt = 1/m); one schedule for all units does
not change that bound. By time: t ~ U(0, 1) with the weight w(t) = -α'(t) / (1 - α(t)).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Canvas
from ..order import Order
from ..schedule import RegionSchedule, Schedule


@dataclass(frozen=True)
class Reveals:
    """What may be revealed from a state, and how much each counts.

    after (A, B, N): states that show one thing more in each token; weight (A, B, L): the weight of -log p of it.
    """

    after: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Masking(ABC):
    """A masking process. schedule: α, None is linear where a time grid is asked for. by_time: estimate the continuous
    bound at random times, also where counts of masked units (less variance) would do."""

    schedule: Schedule | None = None
    by_time: bool = False

    name: ClassVar[str]
    seed: ClassVar[int]  # words of random streams; never reused
    sampler: ClassVar[str] = ""  # the sampler that reveals in its order, where that has another name
    whole_tokens: ClassVar[bool] = False  # a token is masked as a whole, or not at all
    any_subset: ClassVar[bool] = False  # the digits of a token are revealed in any order, not coarse to fine
    one_schedule: ClassVar[bool] = True  # the digits of a token must share their schedule

    def order(self, canvas: Canvas, u: Tensor, given: Tensor, absent: Tensor) -> Order:
        """Uniforms u (B, N) and masks (B, N) -> an order for each example. ValueError where given and absent meet."""
        if (given & absent).any():
            raise ValueError("a sub-token cannot be both given and absent")
        free = ~(given | absent)
        key = self._keys(canvas, u, free).masked_fill(given, -math.inf).masked_fill(absent, math.inf)
        return Order(key, free, self._units(canvas, free))

    @abstractmethod
    def _keys(self, canvas: Canvas, u: Tensor, free: Tensor) -> Tensor:
        """(B, N) keys in [0, 1) of the free sub-tokens, the others at will."""

    def _units(self, canvas: Canvas, free: Tensor) -> Tensor:
        """(B, N): one free sub-token for each unit."""
        return free

    def visible(self, canvas: Canvas, time: Tensor) -> Tensor:
        """Times (B, 1) -> the chance (B, N) that a sub-token is visible."""
        return self.grid.alpha(time).expand(-1, canvas.num_subtokens)

    def rate_by_count(self, canvas: Canvas, masked: Tensor, weight: Tensor) -> Tensor:
        """The weights n/m (B, N) -> n · (chance to be revealed next), (B, N): n/m where all m are equally likely."""
        return weight

    def rate_by_time(self, canvas: Canvas, time: Tensor) -> Tensor:
        """Times (B, 1) in (0, 1] -> the rate (B, N) at which a masked sub-token is revealed: w(t)."""
        return self.grid.weight(time).expand(-1, canvas.num_subtokens)

    @abstractmethod
    def next_reveals(self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, rate: Tensor) -> Reveals:
        """What y_t may reveal next; masked (B, N): free sub-tokens that it masks, rate (B, N): their rates."""

    @abstractmethod
    def step_reveals(
        self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, chance: Tensor, apart: bool = False
    ) -> Reveals | None:
        """The sets of digits of each token that one step may reveal, weighing their chances, where a masked sub-token
        is revealed with `chance` (B, N); None where the sets are too many. apart: -log p of a set is the sum over its
        digits, so that each may be counted alone."""

    def unit_positions(self, canvas: Canvas, free: Tensor) -> list[list[int]]:
        """The free positions (N,) grouped into the units that draw a key of their own."""
        return [[n] for n in free.nonzero()[:, 0].tolist()]

    def settled(self, canvas: Canvas, rank: list[int], free: Tensor, in_time: bool) -> list[int]:
        """Ranks drawn for each unit alone -> the ranks of the process; in_time: of a time grid, not of an order."""
        return rank

    @property
    def grid(self) -> Schedule:
        """The schedule of a time grid."""
        return self.schedule or Schedule.linear()

    @property
    def counts(self) -> bool:
        """Whether the continuous bound is estimated by counts of masked units."""
        return not self.by_time and not isinstance(self.schedule, RegionSchedule)

    def check(self, canvas: Canvas) -> None:
        """Raises ValueError when digits of a token have schedules of their own and must not."""
        schedule = self.schedule
        if self.one_schedule and isinstance(schedule, RegionSchedule) and not schedule.constant_on(canvas.token_of):
            raise ValueError(
                f"masking {self.name!r} needs one schedule for all digits of a token; use masking 'independent'"
            )

    def state_by_count(self, canvas: Canvas, order: Order, u: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, 1) in [0, 1) -> masked (B, N) and the rates (B, N) of a state of the continuous process."""
        if isinstance(self.schedule, RegionSchedule):
            order = order.in_time(self.schedule)
        masked, weight = mask_by_count(order, u, [canvas.mask()])
        return masked, self.rate_by_count(canvas, masked, weight)

    def state_by_time(self, canvas: Canvas, order: Order, u: Tensor) -> tuple[Tensor, Tensor]:
        """The same at the times 1 - u in (0, 1]."""
        time = 1 - u
        return order.free & (order.key > self.grid.alpha(time)), self.rate_by_time(canvas, time)

    def step_chance(self, canvas: Canvas, step: Tensor, steps: int) -> Tensor:
        """step (B,) in 1..T -> the chance (B, N) that it reveals a sub-token that is masked before it.

        c = (v(t) - v(s)) / (1 - v(s)) from s = 1 - (k-1)/T to t = 1 - k/T, v the chance of being visible.
        """
        before, after = (self.visible(canvas, 1 - k.double()[:, None] / steps) for k in (step - 1, step))
        masked = 1 - before
        return torch.where(masked > 0, (after - before) / torch.where(masked > 0, masked, 1.0), 0.0).clamp(0, 1)


def mask_by_count(order: Order, u: Tensor, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mask the last m of the n units of each group of positions, m = 1 + floor(u n).

    u (B, G) in [0, 1); groups: G masks (N,) that tile the canvas. Returns masked (B, N) and weight n/m (B, N).
    """
    masked = torch.zeros_like(order.free)
    weight = torch.zeros_like(order.key)
    for g, group in enumerate(groups):
        inside = group.to(order.free.device)
        is_unit = order.is_unit & inside
        n = is_unit.sum(-1)
        m = torch.minimum(1 + (u[:, g] * n).long(), n)
        keys = order.key.masked_fill(~is_unit, math.inf).sort(-1).values
        threshold = keys.gather(-1, (n - m).clamp(min=0)[:, None])
        masked |= order.free & inside & (order.key >= threshold)
        weight += torch.where(inside, (n.to(weight.dtype) / m.clamp(min=1))[:, None], 0.0)
    return masked, weight
