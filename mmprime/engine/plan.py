"""Plans: at which step each sub-token of an example becomes visible.

    rank[n] = 0 given,  k in 1..K revealed at step k,  -1 (`ABSENT`) never

Sampling executes a plan, likelihood scores one, training scores one random step of a random one. The law of a plan
never looks at the data, which is what makes E_plan[-log p(x | plan)] a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .masking.order import Order, as_mask, draw_order, in_time
from .rng import Randomness, generators, uniforms
from .schedule import Regions, Schedule

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
        """The same reveals in the same order without idle steps, for each example on its own; the law is unchanged."""
        used = self.steps_used
        renamed = torch.cat(
            [used.new_tensor([[ABSENT, 0]], dtype=torch.int64).expand(len(used), 2), used.cumsum(-1)], 1
        )
        return Plan(renamed.gather(1, self.rank + 1), int(used.sum(-1).max()) if used.numel() else 0)

    # ---------------------------------------------------------------- by time

    @classmethod
    def ancestral(
        cls,
        canvas: Canvas,
        schedule: Schedule,
        steps: int,
        batch: int,
        generator: Randomness = None,
        given: Tensor | None = None,
        absent: Tensor | None = None,
        law: str = "independent",
    ) -> Plan:
        """Reveal times cut by a uniform grid of `steps` times; steps may be idle (see `compact`)."""
        order = _order(canvas, law, batch, generator, given, absent)
        return cls(ranks_by_time(canvas, law, order, schedule, steps), steps)

    # ---------------------------------------------------------------- by count: no idle step

    @classmethod
    def first_hitting(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        *,
        steps: int | None = None,
        absent: Tensor | None = None,
        law: str = "independent",
        pace: Schedule | None = None,
        schedule: Schedule | None = None,
    ) -> Plan:
        """A random order cut by count: `per_step` units a step, or all units in at most `steps` steps.

        pace gives the share revealed after step k of K as α(1 - k/K); linear by default. schedule: the order is that of
        its reveal times, which matters where regions differ. One unit a step has the law of continuous time (Zheng et
        al., arXiv 2409.02908).
        """
        order = _order(canvas, law, batch, generator, given, absent)
        if schedule is not None:
            check_law(canvas, law, schedule)
            order = in_time(order, schedule)
        return _cut_by_count(order, per_step, steps, pace)

    @classmethod
    def token_synchronous(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        *,
        steps: int | None = None,
        absent: Tensor | None = None,
        pace: Schedule | None = None,
    ) -> Plan:
        """Whole tokens in random order: plain masked diffusion."""
        order = _order(canvas, "token_synchronous", batch, generator, given, absent)
        return _cut_by_count(order, per_step, steps, pace)

    @classmethod
    def nested(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        *,
        steps: int | None = None,
        absent: Tensor | None = None,
        pace: Schedule | None = None,
    ) -> Plan:
        """Random order in which a token's digits come coarse before fine."""
        order = _order(canvas, "nested", batch, generator, given, absent)
        return _cut_by_count(order, per_step, steps, pace)

    @classmethod
    def ordered(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        by: str | Sequence[Tensor] = "digit",
        per_step: int = 1,
        given: Tensor | None = None,
        *,
        steps: int | None = None,
        absent: Tensor | None = None,
        pace: Schedule | None = None,
    ) -> Plan:
        """A fixed order of classes, random inside a class.

        by: "digit" (the coarse digit of all tokens first), "raster" (token after token, digits in order), or a list of
        region masks (N,) to be revealed one after the other; what no region names comes last.
        """
        priority = _priority(canvas, by)
        order = _order(canvas, "independent", batch, generator, given, absent)
        return _cut_by_count(_prefer(order, priority.expand(batch, -1)), per_step, steps, pace)

    @classmethod
    def halton(
        cls,
        canvas: Canvas,
        batch: int,
        generator: Randomness = None,
        per_step: int = 1,
        given: Tensor | None = None,
        *,
        steps: int | None = None,
        absent: Tensor | None = None,
        pace: Schedule | None = None,
    ) -> Plan:
        """Tokens of each span in a low-discrepancy order, rolled at random per example; a token's coarse digit first.

        Source: Besnier et al., "Halton Scheduler for Masked Generative Image Transformer", arXiv 2503.17076.
        """
        streams = generators(generator, batch, _PLAN_STREAM)
        order = _order(canvas, "independent", batch, streams, given, absent)
        roll = uniforms(streams, len(canvas.spans))
        columns = []
        for index, span in enumerate(canvas.spans):
            place = torch.empty(span.num_tokens, dtype=torch.float64)
            place[halton_order(span)] = torch.arange(span.num_tokens, dtype=torch.float64)
            shift = (roll[:, index : index + 1] * span.num_tokens).long()
            rolled = (place + shift) % span.num_tokens  # (B, L)
            digit = torch.arange(span.codec.num_digits) / span.codec.num_digits
            columns.append(((rolled[..., None] + digit) / span.num_tokens).flatten(1))
        return _cut_by_count(_prefer(order, torch.cat(columns, 1)), per_step, steps, pace)


def halton_order(span: Span) -> Tensor:
    """A permutation (L,) of the span's tokens: Halton points (bases 2, 3) on the grid, base 2 on a line."""
    height, width = span.grid or (1, span.num_tokens)
    seen: dict[int, None] = {}
    index = 0
    while len(seen) < span.num_tokens:
        column = int(_radical_inverse(index, 2) * width)
        row = int(_radical_inverse(index, 3) * height)
        seen.setdefault(row * width + column)
        index += 1
    return torch.tensor(list(seen))


def _radical_inverse(index: int, base: int) -> float:
    value, scale = 0.0, 1.0 / base
    while index:
        value += scale * (index % base)
        index, scale = index // base, scale / base
    return value


def ranks_by_time(canvas: Canvas, law: str, order: Order, schedule: Schedule, steps: int) -> Tensor:
    """Order -> rank (B, N): step k reveals the reveal times τ in [1 - k/K, 1 - (k-1)/K)."""
    if steps < 1:
        raise ValueError(f"a plan needs at least one step, got {steps}")
    check_law(canvas, law, schedule)
    time = schedule.inverse(order.key.clamp(0, 1))
    rank = (steps - (time * steps).floor()).clamp(1, steps).long()
    return _mark(rank, order)


def check_law(canvas: Canvas, law: str, schedule: Schedule) -> None:
    """The digits of a token must share a schedule unless they are independent."""
    if law != "independent" and isinstance(schedule, Regions) and not schedule.constant_on(canvas.token_of):
        raise ValueError(f"law {law!r} needs one schedule for all digits of a token; use law 'independent'")


def _order(
    canvas: Canvas, law: str, batch: int, generator: Randomness, given: Tensor | None, absent: Tensor | None
) -> Order:
    u = uniforms(generators(generator, batch, _PLAN_STREAM), canvas.num_subtokens)
    cpu = torch.device("cpu")
    return draw_order(canvas, law, u, as_mask(given, canvas, batch, cpu), as_mask(absent, canvas, batch, cpu))


def _prefer(order: Order, priority: Tensor) -> Order:
    """The same units ordered by priority (B, N) first, at random among equals."""
    _, rank = torch.unique(priority, return_inverse=True)
    return Order(order.key + rank, order.free, order.leader)  # keys lie in [0, 1), given and absent stay infinite


def _priority(canvas: Canvas, by: str | Sequence[Tensor]) -> Tensor:
    if isinstance(by, str):
        if by not in ("digit", "raster"):
            raise ValueError(f"unknown order {by!r}; there are 'digit', 'raster', or a list of region masks")
        return (canvas.digit_of if by == "digit" else torch.arange(canvas.num_subtokens)).double()
    priority = torch.full((canvas.num_subtokens,), float(len(by)), dtype=torch.float64)
    for place in reversed(range(len(by))):
        priority[as_mask(by[place], canvas, 1, torch.device("cpu"))[0]] = place
    return priority


def _cut_by_count(order: Order, per_step: int, steps: int | None, pace: Schedule | None) -> Plan:
    """Cut an order into steps by the number of units; empty steps are dropped."""
    if steps is not None and per_step != 1:
        raise ValueError(f"give either per_step ({per_step}) or steps ({steps}), not both")
    if steps is None and pace is not None:
        raise ValueError("a pace shapes a number of steps; give steps as well")
    if per_step < 1 or (steps is not None and steps < 1):
        raise ValueError(f"per_step and steps must be at least 1, got {per_step} and {steps}")
    keys = order.key.masked_fill(~order.leader, torch.inf).sort(-1).values
    place = torch.searchsorted(keys, order.key)  # units before this one
    if steps is None:
        rank = place // per_step + 1
    else:
        alpha = (pace or Schedule.linear()).alpha(1 - torch.arange(1, steps + 1, dtype=torch.float64) / steps)
        done = (alpha * order.leader.sum(-1, keepdim=True) + 1e-9).floor().long()  # (B, K) units shown after each step
        done[:, -1] = order.leader.sum(-1)
        rank = torch.searchsorted(done, place, right=True) + 1
    rank = _mark(rank, order)
    return Plan(rank, max(1, int(rank.max()) if rank.numel() else 0)).compact()


def _mark(rank: Tensor, order: Order) -> Tensor:
    return rank.masked_fill(order.key == -torch.inf, 0).masked_fill(order.key == torch.inf, ABSENT)
