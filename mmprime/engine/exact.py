"""Exact likelihood and exact expected bound by enumerating every plan of a law; for tiny canvases.

nll = -log E_plan[p(x | plan)]   <=   bound = E_plan[-log p(x | plan)]          (Jensen)
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .canvas import Canvas
from .codec import MASK_ID
from .denoiser import Condition, Denoiser, reveal_nats
from .masking.order import LAWS, num_places
from .plan import check_law
from .schedule import Schedule

_MAX_PLANS = 200_000


class ExactLikelihood(NamedTuple):
    """nats per example: the exact negative log-likelihood and the exact expected bound, both (B,) float64."""

    nll: Tensor
    bound: Tensor


def exact_likelihood(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    steps: int | None = None,
    law: str = "independent",
    given: Tensor | None = None,
    *,
    cond: Condition | None = None,
    schedule: Schedule | None = None,
) -> ExactLikelihood:
    """Enumerate all plans of a law (all orders, or all grid ranks for finite T). given: (N,) bool.

    Raises ValueError when there are more than 200,000 plans, on hidden sub-tokens in y0, steps < 1, a `given` of
    another shape, or in continuous time a schedule by regions that differ by more than their power, or by that under
    another law than independent (the chance of an order then depends on times).
    """
    canvas.check_digits(y0)
    if (y0 < 0).any():
        raise ValueError(f"sub-token {(y0 < 0).nonzero()[0, 1]} is hidden in the data; there is no exact value")
    if given is not None and given.shape != (canvas.num_subtokens,):
        raise ValueError(f"given is bool ({canvas.num_subtokens},), got {tuple(given.shape)}")
    free = torch.ones(canvas.num_subtokens, dtype=torch.bool) if given is None else ~given
    if schedule is not None:
        check_law(canvas, law, schedule)
    if steps is not None:
        plans = _time_plans(canvas, law, free, steps, schedule or Schedule.linear())
    else:
        rates = (schedule or Schedule.linear()).rates(canvas.num_subtokens)
        if rates is None or (law != "independent" and bool((rates != rates[0]).any())):
            raise ValueError(
                f"continuous time by these regions has no exact value here under law {law!r}; give steps, or estimate "
                "by `nelbo(...)`"
            )
        plans = _order_plans(canvas, law, free, rates.tolist())
    cache: dict[tuple[frozenset[int], frozenset[int]], Tensor] = {}

    def step_nats(shown: frozenset[int], revealed: frozenset[int]) -> Tensor:
        key = (shown, revealed)
        if key not in cache:
            before, after = (_show(y0, positions) for positions in (shown, shown | revealed))
            cache[key] = reveal_nats(denoiser, canvas, before, after[None], cond).sum((0, 2)).double()
        return cache[key]

    start = frozenset((~free).nonzero()[:, 0].tolist())
    logs, nats = [], []
    for rank, probability in plans.items():
        shown, total = start, torch.zeros(len(y0), dtype=torch.float64)
        for k in sorted(set(rank) - {0}):
            revealed = frozenset(n for n, r in enumerate(rank) if r == k)
            total = total + step_nats(shown, revealed)
            shown = shown | revealed
        logs.append(math.log(probability))
        nats.append(total)
    log_weight, plan_nats = torch.tensor(logs, dtype=torch.float64)[:, None], torch.stack(nats)
    weight = log_weight.exp()
    bound = (weight * plan_nats.masked_fill(weight == 0, 0.0)).sum(0)
    return ExactLikelihood(-torch.logsumexp(log_weight - plan_nats, 0), bound)


def _show(y0: Tensor, positions: frozenset[int]) -> Tensor:
    visible = torch.zeros(y0.shape[1], dtype=torch.bool)
    visible[list(positions)] = True
    return torch.where(visible, y0, MASK_ID)


def _units(canvas: Canvas, law: str, free: Tensor) -> list[list[int]]:
    """The free positions grouped into the units that draw a time of their own."""
    if law not in LAWS:
        raise ValueError(f"unknown law {law!r}; there are {', '.join(LAWS)}")
    positions = free.nonzero()[:, 0].tolist()
    if law != "token_synchronous":
        return [[n] for n in positions]
    groups: dict[int, list[int]] = {}
    for n in positions:
        groups.setdefault(int(canvas.token_of[n]), []).append(n)
    return list(groups.values())


def _sort(canvas: Canvas, law: str, rank: list[int], free: Tensor) -> tuple[int, ...]:
    """Sort the ranks of each token's free digits under the nested law."""
    if law == "nested":
        for token in range(canvas.num_tokens):
            places = [n for n in range(len(rank)) if free[n] and int(canvas.token_of[n]) == token]
            for n, r in zip(places, sorted(rank[n] for n in places)):
                rank[n] = r
    return tuple(rank)


def _order_plans(canvas: Canvas, law: str, free: Tensor, rates: list[float]) -> dict[tuple[int, ...], float]:
    """Singletons in every order; the next unit has chance rate / Σ rates of those that are left (Plackett-Luce)."""
    units = _units(canvas, law, free)
    _limit(math.factorial(len(units)))
    plans: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(units))):
        rank, probability, left = [0] * canvas.num_subtokens, 1.0, sum(rates[unit[0]] for unit in units)
        for place, index in enumerate(order):
            rate = rates[units[index][0]]
            probability, left = probability * min(1.0, rate / left), left - rate
            for n in units[index]:
                rank[n] = place + 1
        if law == "coarse_first":  # the same order inside a digit place, one place after the other
            first = sorted(free.nonzero()[:, 0].tolist(), key=lambda n: (int(canvas.digit_of[n]), rank[n]))
            for place, n in enumerate(first):
                rank[n] = place + 1
        key = _sort(canvas, law, rank, free)
        plans[key] = plans.get(key, 0.0) + probability
    return plans


def _time_plans(canvas: Canvas, law: str, free: Tensor, steps: int, schedule: Schedule) -> dict[tuple[int, ...], float]:
    if steps < 1:
        raise ValueError(f"a plan needs at least one step, got {steps}")
    units = _units(canvas, law, free)
    _limit(steps ** len(units))
    times = 1 - torch.arange(steps + 1, dtype=torch.float64)[:, None] / steps
    alpha = schedule.alpha(times).expand(-1, canvas.num_subtokens)
    if law == "coarse_first":
        alpha = (num_places(canvas) * alpha - canvas.digit_of).clamp(0, 1)
    chance = alpha.diff(dim=0)  # (T, N): of being revealed at each step
    plans: dict[tuple[int, ...], float] = {}
    for ranks in itertools.product(range(steps), repeat=len(units)):
        probability = math.prod(float(chance[r, unit[0]]) for unit, r in zip(units, ranks))
        if probability > 0:
            rank = [0] * canvas.num_subtokens
            for unit, r in zip(units, ranks):
                for n in unit:
                    rank[n] = r + 1
            key = _sort(canvas, law, rank, free)
            plans[key] = plans.get(key, 0.0) + probability
    return plans


def _limit(plans: int) -> None:
    if plans > _MAX_PLANS:
        raise ValueError(f"{plans} plans to enumerate, at most {_MAX_PLANS}; use a smaller canvas or `nelbo(...)`")
