"""Likelihoods a second time: -log p(x) and E_plan[-log p(x | plan)] by a Markov chain over sets of visible positions.

The engine enumerates *plans* (`exact_nelbo`); this walks *states* with transition chances: the two share no step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from oracle import LogReveal, TableDenoiser, log_reveal
from torch import Tensor

from mmprime.engine import Canvas, Schedule


def likelihood_of(
    denoiser: TableDenoiser,
    canvas: Canvas,
    y0: Tensor,
    masking: str = "independent",
    schedule: Schedule | None = None,
    steps: int | None = None,
    given: Sequence[int] = (),
    absent: Sequence[int] = (),
    rates: Sequence[float] | None = None,
    log_p: LogReveal = log_reveal,
) -> tuple[Tensor, Tensor]:
    """(-log p(x), E_plan[-log p(x | plan)]) of rows y0, by recursion over the sets of visible positions.

    Continuous time: the next unit is drawn with chance proportional to its rate (reveal times with P(τ < t) = t^rate
    race like exponentials; equal rates for any one schedule). Finite T: at step k each masked unit is revealed with
    chance (α_k - α_{k-1}) / (1 - α_{k-1}); under nested masking a token reveals Binomial(masked, chance) digits; under
    coarse_first the chances are those of the α of each digit level, squeezed into its share of [0, 1].
    """
    everything = frozenset(range(canvas.num_subtokens)) - frozenset(absent)
    rate = list(rates or [1.0] * canvas.num_subtokens)

    @cache
    def reveal(visible: frozenset, new: frozenset) -> Tensor:
        return log_p(denoiser, canvas, y0, visible, new)

    @cache
    def walk(visible: frozenset, step: int) -> tuple[Tensor, Tensor]:
        """(p(rest | visible), expected nats of the rest)."""
        if visible == everything:
            return torch.ones(len(y0), dtype=torch.float64), torch.zeros(len(y0), dtype=torch.float64)
        masked = sorted(everything - visible)
        moves = (
            _races(canvas, masking, masked, rate) if steps is None else _steps(canvas, masking, masked, chance[step])
        )
        likelihood = nats = torch.zeros(len(y0), dtype=torch.float64)
        for probability, new in moves:
            term = reveal(visible, new)
            rest = walk(visible | new, step + 1)
            likelihood = likelihood + probability * term.exp() * rest[0]
            nats = nats + probability * (rest[1] - term)
        return likelihood, nats

    chance = [] if steps is None else _chances(canvas, masking, schedule or Schedule.linear(), steps)
    likelihood, nats = walk(frozenset(given), 0)
    return -likelihood.log(), nats


def _chances(canvas: Canvas, masking: str, schedule: Schedule, steps: int) -> list[list[float]]:
    """chance[k][n]: of revealing sub-token n at step k + 1 if still masked."""
    levels = int(canvas.digit_of.max()) + 1
    alpha = [
        schedule.alpha(torch.full((canvas.num_subtokens,), 1 - k / steps, dtype=torch.float64)).clamp(0, 1).tolist()
        for k in range(steps + 1)
    ]
    if masking == "coarse_first":
        alpha = [[min(1.0, max(0.0, levels * a - int(d))) for a, d in zip(row, canvas.digit_of)] for row in alpha]
    alpha[0], alpha[-1] = [0.0] * canvas.num_subtokens, [1.0] * canvas.num_subtokens
    return [[(b - a) / (1 - a) if a < 1 else 1.0 for a, b in zip(low, high)] for low, high in itertools.pairwise(alpha)]


def _by_token(canvas: Canvas, masked: Sequence[int]) -> list[list[int]]:
    return [list(group) for _, group in itertools.groupby(masked, key=lambda n: int(canvas.token_of[n]))]


def _races(
    canvas: Canvas, masking: str, masked: Sequence[int], rate: Sequence[float]
) -> Iterator[tuple[float, frozenset[int]]]:
    tokens = _by_token(canvas, masked)
    if masking == "coarse_first":
        coarsest = min(int(canvas.digit_of[n]) for n in masked)
        tokens = [[n] for n in masked if canvas.digit_of[n] == coarsest]
    if masking == "independent":
        tokens = [[n] for n in masked]
    events = [
        (
            rate[group[0]] * (len(group) if masking == "nested" else 1),
            frozenset(group[:1] if masking == "nested" else group),
        )
        for group in tokens
    ]
    total = sum(weight for weight, _ in events)
    yield from ((weight / total, new) for weight, new in events)


def _steps(
    canvas: Canvas, masking: str, masked: Sequence[int], chance: Sequence[float]
) -> Iterator[tuple[float, frozenset[int]]]:
    options: list[list[tuple[float, list[int]]]] = []
    for group in _by_token(canvas, masked):
        r = chance[group[0]]
        if masking == "token_synchronous":
            options.append([(1 - r, []), (r, group)])
        elif masking == "nested":
            m = len(group)
            options.append([(math.comb(m, j) * r**j * (1 - r) ** (m - j), group[:j]) for j in range(m + 1)])
        else:
            options += [[(1 - chance[n], []), (chance[n], [n])] for n in group]
    for choice in itertools.product(*options):
        probability = math.prod(c for c, _ in choice)
        if probability > 0:
            yield probability, frozenset(n for _, new in choice for n in new)
