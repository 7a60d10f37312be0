"""Exact likelihood and exact expected bound by enumerating every plan of a masking process; for tiny canvases.

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
from .denoiser import Denoiser, reveal_nats
from .masking import Masking, masking_of
from .rows import Rows
from .schedule import RegionSchedule

_MAX_PLANS = 200_000
Plans = dict[tuple[int, ...], float]  # the ranks of the sub-tokens -> the chance of that plan


class ExactLikelihood(NamedTuple):
    """nats per example: the exact negative log-likelihood and the exact expected bound, both (B,) float64."""

    nll: Tensor
    bound: Tensor


def exact_nelbo(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor | Rows,
    steps: int | None = None,
    masking: str | Masking = "independent",
    given: Tensor | None = None,
) -> ExactLikelihood:
    """Enumerate all plans of a masking process (all orders, or all grid ranks for finite T). given: (N,) bool.

    Raises ValueError when there are more than 200,000 plans, on masked sub-tokens in y0, steps < 1, masks that differ
    between examples, or in continuous time a schedule by regions that differ by more than their power (the chance of an
    order then depends on times).
    """
    rows, process = Rows.of(canvas, y0, given), masking_of(masking)
    if rows.absent.any() or (len(rows) and (rows.given != rows.given[0]).any()):
        raise ValueError("the exact value needs one mask `given` for all examples, and nothing absent")
    process.check(canvas)
    free = rows.free[0].cpu() if len(rows) else torch.ones(canvas.num_subtokens, dtype=torch.bool)
    plans = _orders(canvas, process, free) if steps is None else _grids(canvas, process, free, steps)
    cache: dict[tuple[frozenset[int], frozenset[int]], Tensor] = {}

    def step_nats(visible: frozenset[int], revealed: frozenset[int]) -> Tensor:
        key = (visible, revealed)
        if key not in cache:
            before, after = (_visible(rows.y, positions) for positions in (visible, visible | revealed))
            cache[key] = reveal_nats(denoiser, canvas, before, after[None], rows.cond).sum((0, 2)).double().cpu()
        return cache[key]

    start = frozenset((~free).nonzero()[:, 0].tolist())
    logs, nats = [], []
    for rank, probability in plans.items():
        visible, total = start, torch.zeros(len(rows), dtype=torch.float64)
        for k in sorted(set(rank) - {0}):
            revealed = frozenset(n for n, r in enumerate(rank) if r == k)
            total = total + step_nats(visible, revealed)
            visible = visible | revealed
        logs.append(math.log(probability))
        nats.append(total)
    log_weight, plan_nats = torch.tensor(logs, dtype=torch.float64)[:, None], torch.stack(nats)
    weight = log_weight.exp()
    bound = (weight * plan_nats.masked_fill(weight == 0, 0.0)).sum(0)
    nll = -torch.logsumexp(log_weight - plan_nats, 0)
    return ExactLikelihood(nll.to(rows.y.device), bound.to(rows.y.device))


def _visible(y0: Tensor, positions: frozenset[int]) -> Tensor:
    visible = torch.zeros(y0.shape[1], dtype=torch.bool)
    visible[list(positions)] = True
    return torch.where(visible.to(y0.device), y0, MASK_ID)


def _orders(canvas: Canvas, process: Masking, free: Tensor) -> Plans:
    """Singletons in every order; the next unit has chance p / Σ p of those that are left (Plackett-Luce)."""
    powers: Tensor | None = torch.ones(canvas.num_subtokens, dtype=torch.float64)
    if isinstance(process.schedule, RegionSchedule):
        powers = process.schedule.powers
    if powers is None or (process.one_schedule and bool((powers != powers[0]).any())):
        raise ValueError(
            f"continuous time by these regions has no exact value here under masking {process.name!r}; give steps, or "
            "estimate by `nelbo(...)`"
        )
    rates = powers.tolist()
    units = process.unit_positions(canvas, free)
    _limit(math.factorial(len(units)))
    plans: Plans = {}
    for order in itertools.permutations(range(len(units))):
        rank, probability, left = [0] * canvas.num_subtokens, 1.0, sum(rates[unit[0]] for unit in units)
        for position, index in enumerate(order):
            rate = rates[units[index][0]]
            probability, left = probability * min(1.0, rate / left), left - rate
            for n in units[index]:
                rank[n] = position + 1
        key = tuple(process.settled(canvas, rank, free, in_time=False))
        plans[key] = plans.get(key, 0.0) + probability
    return plans


def _grids(canvas: Canvas, process: Masking, free: Tensor, steps: int) -> Plans:
    if steps < 1:
        raise ValueError(f"a plan needs at least one step, got {steps}")
    units = process.unit_positions(canvas, free)
    _limit(steps ** len(units))
    times = 1 - torch.arange(steps + 1, dtype=torch.float64)[:, None] / steps
    chance = process.visible(canvas, times).diff(dim=0)  # (T, N): of being revealed at each step
    plans: Plans = {}
    for ranks in itertools.product(range(steps), repeat=len(units)):
        probability = math.prod(float(chance[r, unit[0]]) for unit, r in zip(units, ranks))
        if probability > 0:
            rank = [0] * canvas.num_subtokens
            for unit, r in zip(units, ranks):
                for n in unit:
                    rank[n] = r + 1
            key = tuple(process.settled(canvas, rank, free, in_time=True))
            plans[key] = plans.get(key, 0.0) + probability
    return plans


def _limit(plans: int) -> None:
    if plans > _MAX_PLANS:
        raise ValueError(f"{plans} plans to enumerate, at most {_MAX_PLANS}; use a smaller canvas or `nelbo(...)`")
