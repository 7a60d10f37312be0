"""What one step of T-step sampling may reveal of a state, and with what chance.

At step k of T the time falls from s = 1 - (k-1)/T to t = 1 - k/T. Given what is hidden at s, each hidden sub-token is
revealed with chance

    c = (v(t) - v(s)) / (1 - v(s)),      v the chance of being visible: α, under coarse_first clip(S·α - d, 0, 1)

independent of all others; the digits of a token share one draw under token_synchronous, and under nested the first
r ~ Binomial(m, c) of its m hidden digits come. Summing over these sets instead of drawing one gives the same bound from
the same forward pass with less variance (Rao-Blackwell), since the network sees the state only.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..canvas import Canvas
from ..schedule import Schedule
from .order import Events, at_digit, num_places, token_start

SUMMED_PLACES = 3  # of digits that come independently: 2^S - 1 sets of S digits


def step_chance(canvas: Canvas, law: str, schedule: Schedule, step: Tensor, steps: int) -> Tensor:
    """step (B,) in 1..steps -> c (B, N) float64 of each sub-token, if it is hidden before the step."""
    before, after = (_visible(canvas, law, schedule, 1 - k.double()[:, None] / steps) for k in (step - 1, step))
    hidden = 1 - before
    return torch.where(hidden > 0, (after - before) / torch.where(hidden > 0, hidden, 1.0), 0.0).clamp(0, 1)


def can_sum(canvas: Canvas, law: str) -> bool:
    """Whether the sets that a step may reveal are few enough for `step_events`."""
    return law in ("token_synchronous", "nested") or num_places(canvas) <= SUMMED_PLACES


def step_events(canvas: Canvas, law: str, y0: Tensor, y_t: Tensor, hidden: Tensor, chance: Tensor) -> Events:
    """The sets of digits of each token that a step may reveal, weighing their chances.

    hidden (B, N): free sub-tokens that y_t hides; chance: of `step_chance`. Ask `can_sum` first.
    """
    hidden = hidden & (chance > 0)
    if law == "token_synchronous":
        return Events(torch.where(hidden, y0, y_t)[None], at_digit(canvas, chance, 0)[None])
    return _prefixes(canvas, y0, y_t, hidden, chance) if law == "nested" else _sets(canvas, y0, y_t, hidden, chance)


def _visible(canvas: Canvas, law: str, schedule: Schedule, time: Tensor) -> Tensor:
    alpha = schedule.alpha(time).expand(-1, canvas.num_subtokens)
    if law != "coarse_first":
        return alpha
    return (num_places(canvas) * alpha - canvas.digit_of.to(time.device)).clamp(0, 1)


def _prefixes(canvas: Canvas, y0: Tensor, y_t: Tensor, hidden: Tensor, chance: Tensor) -> Events:
    """The first r = 1..S hidden digits of a token, with the chance of r in Binomial(m, c)."""
    places = num_places(canvas)
    of_token = at_digit(canvas, chance, 0)
    count = torch.zeros_like(of_token, dtype=torch.int64)
    count.index_add_(1, canvas.token_of.to(y0.device), hidden.long())
    running = hidden.long().cumsum(-1)
    before = (running - hidden.long())[:, token_start(canvas).to(y0.device)]
    ways = torch.tensor([[math.comb(m, r) for m in range(places + 1)] for r in range(places + 1)], device=y0.device)
    after, weight = [], []
    for shown in range(1, places + 1):
        after.append(torch.where(hidden & (running - before <= shown), y0, y_t))
        rest = (count - shown).clamp(min=0)
        weight.append(ways[shown][count] * of_token**shown * (1 - of_token) ** rest)
    return Events(torch.stack(after), torch.stack(weight))


def _sets(canvas: Canvas, y0: Tensor, y_t: Tensor, hidden: Tensor, chance: Tensor) -> Events:
    """Every set of digit places of a token: the product of the chances that they come and the others do not."""
    digit = canvas.digit_of.to(y0.device)
    comes = [at_digit(canvas, torch.where(hidden, chance, 0.0), place) for place in range(num_places(canvas))]
    after, weight = [], []
    for taken in itertools.product((False, True), repeat=len(comes)):
        if any(taken):
            after.append(torch.where(hidden & torch.tensor(taken, device=y0.device)[digit], y0, y_t))
            weight.append(torch.stack([c if take else 1 - c for c, take in zip(comes, taken)]).prod(0))
    return Events(torch.stack(after), torch.stack(weight))
