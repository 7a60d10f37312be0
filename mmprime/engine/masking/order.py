"""Laws of plans: in which order the sub-tokens of an example are revealed.

Every sub-token n draws u_n ~ U(0, 1); small u is revealed early (visible at time t iff u_n <= α(t)).

    independent         u_n as drawn
    token_synchronous   the digits of a token share one u: plain masked diffusion over tokens
    nested              the u of a token's digits sorted, coarse digit first: hierarchical diffusion (arXiv 2510.08632)
    coarse_first        (d + u_n) / S for digit place d of at most S: all coarse digits before any finer one

A *unit* is what is counted: a sub-token, or a whole token when its digits are synchronous. Hiding exactly m of the n
units, m uniform in 1..n, with weight n/m on the sum over hidden units is the continuous-time bound with t integrated
out (∫ C(n,m) t^{m-1} (1-t)^{n-m} dt = 1/m); it needs no schedule, because the bound does not depend on it.

Under coarse_first a digit of place d is visible at time t with chance clip(S·α(t) - d, 0, 1), so a hidden one is
revealed at rate -α'(t) / ((d+1)/S - α(t)) while d = floor(S·α(t)), and at rate 0 before and after. By count: of the m
hidden units the a of the coarsest place that has any are equally likely to come next, so each weighs n/a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..canvas import Canvas
from ..schedule import Schedule

LAWS = ("independent", "nested", "token_synchronous", "coarse_first")  # seeds depend on the index: append only


@dataclass(frozen=True)
class Order:
    """A random order of the free sub-tokens of a batch.

    key (B, N) float64: small is early; -inf where given, +inf where absent. free (B, N): neither given nor absent.
    leader (B, N): one free sub-token for each unit.
    """

    key: Tensor
    free: Tensor
    leader: Tensor


def as_mask(mask: Tensor | None, canvas: Canvas, batch: int, device: torch.device) -> Tensor:
    """None, (N,) or (B, N) bool -> (B, N) bool. Raises ValueError on another shape or dtype."""
    if mask is None:
        return torch.zeros(batch, canvas.num_subtokens, dtype=torch.bool, device=device)
    if mask.dtype != torch.bool or mask.shape not in {(canvas.num_subtokens,), (batch, canvas.num_subtokens)}:
        wanted = f"bool ({canvas.num_subtokens},) or ({batch}, {canvas.num_subtokens})"
        raise ValueError(f"a mask of sub-tokens is {wanted}, got {mask.dtype} {tuple(mask.shape)}")
    return mask.to(device).expand(batch, -1)


def draw_order(canvas: Canvas, law: str, u: Tensor, given: Tensor, absent: Tensor) -> Order:
    """Uniforms u (B, N) and masks (B, N) -> the order of one plan for each example. ValueError on unknown laws."""
    if law not in LAWS:
        raise ValueError(f"unknown law {law!r}; there are {', '.join(LAWS)}")
    if (given & absent).any():
        raise ValueError("a sub-token cannot be both given and absent")
    free = ~(given | absent)
    leader = free
    if law == "token_synchronous":
        u = u[:, token_start(canvas).to(u.device)]
        leader = first_in_token(canvas, free)
    elif law == "nested":
        u = _sort_in_token(canvas, u, free)
    elif law == "coarse_first":
        u = (canvas.digit_of.to(u.device) + u) / num_places(canvas)
    key = u.masked_fill(given, -math.inf).masked_fill(absent, math.inf)
    return Order(key, free, leader)


def in_time(order: Order, schedule: Schedule) -> Order:
    """The same units in the order of their reveal times τ = α^{-1}(key) under a schedule, the largest first.

    The key of a free sub-token is -τ (1 - τ would make small times equal).
    """
    time = schedule.inverse(order.key.clamp(0, 1))
    return Order(torch.where(order.free, -time, order.key), order.free, order.leader)


def _sort_in_token(canvas: Canvas, u: Tensor, free: Tensor) -> Tensor:
    """Give the k-th free digit of each token the k-th smallest u among that token's free digits."""
    token = 2 * canvas.token_of.to(u.device, u.dtype)
    by_value = torch.argsort(token + torch.where(free, u, 1.5), -1)
    by_place = torch.argsort(token + torch.where(free, 0.0, 1.5), dim=-1, stable=True)
    return torch.zeros_like(u).scatter(-1, by_place, u.gather(-1, by_value))


def num_places(canvas: Canvas) -> int:
    """S: the most digits that a token of the canvas has."""
    return max(span.codec.num_digits for span in canvas.spans)


def token_start(canvas: Canvas) -> Tensor:
    """(N,) the position of the first digit of each sub-token's token."""
    return torch.arange(canvas.num_subtokens) - canvas.digit_of


def first_in_token(canvas: Canvas, mask: Tensor) -> Tensor:
    """mask (B, N) -> the first marked digit of each token."""
    count = mask.long().cumsum(-1)
    start = token_start(canvas).to(mask.device)
    before = count[:, start] - mask[:, start].long()
    return mask & (count - before == 1)


def at_digit(canvas: Canvas, x: Tensor, place: int) -> Tensor:
    """x (B, N) -> (B, L): the value at one digit place of each token, 0 where the token has no such place."""
    chosen = (canvas.digit_of == place).to(x.device)
    out = torch.zeros(len(x), canvas.num_tokens, dtype=x.dtype, device=x.device)
    out[:, canvas.token_of.to(x.device)[chosen]] = x[:, chosen]
    return out


def hide_by_count(order: Order, u: Tensor, groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Hide the last m of the n units of each group of positions, m = 1 + floor(u n).

    u (B, G) in [0, 1); groups: G masks (N,) that tile the canvas. Returns hidden (B, N) and weight n/m (B, N).
    """
    hidden = torch.zeros_like(order.free)
    weight = torch.zeros_like(order.key)
    for g, group in enumerate(groups):
        inside = group.to(order.free.device)
        leader = order.leader & inside
        n = leader.sum(-1)
        m = torch.minimum(1 + (u[:, g] * n).long(), n)
        keys = order.key.masked_fill(~leader, math.inf).sort(-1).values
        threshold = keys.gather(-1, (n - m).clamp(min=0)[:, None])
        hidden |= order.free & inside & (order.key >= threshold)
        weight += torch.where(inside, (n.to(weight.dtype) / m.clamp(min=1))[:, None], 0.0)
    return hidden, weight


def rates_by_count(canvas: Canvas, law: str, hidden: Tensor, weight: Tensor, race: Tensor | None = None) -> Tensor:
    """The weights n/m (B, N) of `hide_by_count` -> the rate of each hidden sub-token (B, N), 0 where it cannot be next.

    n · (chance to be the next one): n/m when all m are equally likely, under coarse_first n/a for the a of the coarsest
    hidden place, and n · p / Σ_hidden p when digits of rates p race; race: those rates (N,), law independent.
    """
    if law == "coarse_first":
        digit = canvas.digit_of.to(hidden.device)
        coarsest = torch.where(hidden, digit, num_places(canvas)).amin(-1, keepdim=True)
        chance = (hidden & (digit == coarsest)).to(weight.dtype)
    elif race is not None:
        chance = torch.where(hidden, race.to(weight), 0.0)
    else:
        return weight
    total = chance.sum(-1, keepdim=True)
    return weight * hidden.sum(-1, keepdim=True) * chance / torch.where(total > 0, total, 1.0)


def rates_by_time(canvas: Canvas, law: str, schedule: Schedule, time: Tensor) -> Tensor:
    """Times (B, 1) in (0, 1] -> the rate at which a sub-token is revealed if it is hidden, (B, N).

    It is w(t), and under coarse_first that of the module's head.
    """
    if law != "coarse_first":
        return schedule.weight(time).expand(-1, canvas.num_subtokens)
    places, digit = num_places(canvas), canvas.digit_of.to(time.device)
    alpha, derivative = schedule.at(time)
    left = (digit + 1) / places - alpha
    active = (digit == (places * alpha).floor()) & (left > 0)
    return torch.where(active, -derivative / torch.where(active, left, 1.0), 0.0)


@dataclass(frozen=True)
class Events:
    """What may be revealed next from a state, and how much each counts.

    after (A, B, N): states that show one thing more in each token; weight (A, B, L): the weight of -log p of it.
    """

    after: Tensor
    weight: Tensor


def next_events(canvas: Canvas, law: str, y0: Tensor, y_t: Tensor, hidden: Tensor, weight: Tensor) -> Events:
    """The reveal events of a state y_t with free hidden sub-tokens `hidden` (B, N) and their rates `weight` (B, N).

    independent: each hidden digit alone. token_synchronous: all of a token's at once. nested: a token's next digit,
    at the rate of all m of its hidden digits (the first of m sorted times). coarse_first: each hidden digit whose rate
    is above 0, at most one of a token (see `rates_by_count`, `rates_by_time`).
    """
    if law == "independent":
        places = range(num_places(canvas))
        at_place = [hidden & (canvas.digit_of.to(y0.device) == place) for place in places]
        after = torch.stack([torch.where(chosen, y0, y_t) for chosen in at_place])
        return Events(after, torch.stack([at_digit(canvas, weight, place) for place in places]))
    if law == "coarse_first":
        rate = torch.where(hidden, weight, 0.0)
        of_token = torch.zeros(len(y0), canvas.num_tokens, dtype=rate.dtype, device=rate.device)
        of_token.index_add_(1, canvas.token_of.to(rate.device), rate)
        return Events(torch.where(rate > 0, y0, y_t)[None], of_token[None])
    rate = at_digit(canvas, weight, 0)
    if law == "token_synchronous":
        return Events(torch.where(hidden, y0, y_t)[None], rate[None])
    chosen = first_in_token(canvas, hidden)
    count = torch.zeros_like(rate).index_add_(1, canvas.token_of.to(y0.device), hidden.to(rate.dtype))
    return Events(torch.where(chosen, y0, y_t)[None], (count * rate)[None])
