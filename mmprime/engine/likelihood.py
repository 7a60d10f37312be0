"""Valid likelihood bounds of a denoiser, for any law of plans, and the joint training loss.

    -log p(x) <= E_plan[-log p(x | plan)],    log p(x | plan) = Σ_k Σ_i log p(y^{i, S_k} | y_{<k})          (NELBO)

Continuous time (one event a step): E over states of Σ_events rate · -log p(event | state); with independent digits
this is Σ_hidden w(t) · -log p(y_n | y_t). Finite T: T times one random step of a plan of T steps, summed over what that
step may reveal (`steps.py`).

The *joint* loss, Σ_tokens w(t) · -log p(x^i | y_t), counts a token's whole code each time any of its digits is hidden
at the rate of one event; for S > 1 it is NOT a bound (one token of two equal fair bits: 0.347 < ln 2). It is a proper
training loss: its minimiser has the right token posteriors. Never print it as a likelihood.

Sources: Chao et al., arXiv 2505.18495 and its errata note; Sahoo et al., arXiv 2406.07524; Nie et al. (LLaDA),
arXiv 2502.09992 (hidden-count estimator).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import Canvas
from .codec import MASK_ID
from .denoiser import Condition, Denoiser, reveal_nats
from .exact import exact_likelihood
from .masking.order import (
    Events,
    Order,
    as_mask,
    draw_order,
    hide_by_count,
    in_time,
    next_events,
    rates_by_count,
    rates_by_time,
)
from .masking.steps import can_sum, step_chance, step_events
from .plan import Plan, check_law, ranks_by_time
from .schedule import Schedule


class Nelbo:
    """Unbiased estimates of the negative evidence lower bound, in nats per example. Use the instance `nelbo`.

    An example to which the denoiser gives no chance has +inf nats, wherever an estimate meets it; none is NaN.
    """

    exact = staticmethod(exact_likelihood)

    def __call__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        y0: Tensor,
        steps: int | None = None,
        law: str = "independent",
        given: Tensor | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
        *,
        cond: Condition | None = None,
        absent: Tensor | None = None,
        schedule: Schedule | None = None,
        by_count: bool = False,
    ) -> Tensor:
        """y0 (B, N) -> (B,) nats, differentiable.

        steps: None is continuous time; T is the exact bound of T-step sampling on a uniform time grid.
        law: one of `LAWS`. given / absent: (N,) or (B, N) bool; absent sub-tokens stay hidden
        and are not scored. samples: draws averaged for each example, stratified. schedule: for continuous time None
        counts hidden units uniformly (any one schedule gives that same bound), a schedule draws times (needed when
        regions differ); for finite T it places the grid and defaults to linear. by_count: in continuous time, count
        hidden sub-tokens also where regions differ by their power only (`Schedule.places`; law independent): the same
        bound with less variance than by time.
        Raises ValueError on logits that are NaN, +inf or all -inf, hidden sub-tokens in y0 that are scored, unknown
        laws, samples < 1 or steps < 1, and on by_count without a schedule whose regions differ by their power only.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        given, absent = _masks(canvas, y0, given, absent)
        if schedule is not None or steps is not None:
            schedule = schedule or Schedule.linear()
            check_law(canvas, law, schedule)
        race = _race(canvas, law, steps, schedule) if by_count else None
        offset = _strata(len(y0), 1, generator, y0.device)
        total = torch.zeros(len(y0), dtype=torch.float32, device=y0.device)
        for sample in range(samples):
            order = _draw(canvas, y0, law, given, absent, generator)
            u = (sample + offset) / samples
            if steps is None:
                nats = _continuous(denoiser, canvas, y0, order, law, u, schedule, race, cond)
            else:
                assert schedule is not None
                nats = steps * _one_step(denoiser, canvas, y0, order, law, u, schedule, steps, cond)
            total = total + nats
        return total / samples


nelbo = Nelbo()


def joint_loss(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    given: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    law: str = "independent",
    cond: Condition | None = None,
    absent: Tensor | None = None,
    independent_spans: bool = False,
    mask_power: float = 1.0,
    schedule: Schedule | None = None,
) -> Tensor:
    """The joint training loss (B,): Σ over tokens with something hidden of (n/m) · -log p(all its hidden digits | y_t).

    Not a bound for S > 1. independent_spans hides each span by a time of its own, as for models that must also see
    one modality whole while the other is still hidden. mask_power p hides the share 1 - (1 - u)^p, u uniform: p > 1
    trains more on nearly hidden states, where a condition matters most; the optimum is the same for every p, since
    what is hidden never depends on the data. schedule: hides the m sub-tokens that it reveals last, so that only its
    order matters and a token weighs n/m as without one (any positive weight is proper; w(t) would have infinite
    variance). Other arguments as for `nelbo`. Raises ValueError on a mask_power <= 0.
    """
    if not mask_power > 0:
        raise ValueError(f"mask_power must be > 0, got {mask_power}")
    given, absent = _masks(canvas, y0, given, absent)
    groups = [canvas.mask(s.name) for s in canvas.spans] if independent_spans else [canvas.mask()]
    order = _draw(canvas, y0, law, given, absent, generator)
    if schedule is not None:
        check_law(canvas, law, schedule)
        order = in_time(order, schedule)
    share = 1 - (1 - _strata(len(y0), len(groups), generator, y0.device)) ** mask_power
    hidden, weight = hide_by_count(order, share, groups)
    y_t = torch.where(hidden | absent, MASK_ID, y0)
    events = next_events(canvas, "token_synchronous", y0, y_t, hidden, weight)
    return _weighed(denoiser, canvas, y_t, events, cond)


def plan_nats(denoiser: Denoiser, canvas: Canvas, y0: Tensor, plan: Plan, cond: Condition | None = None) -> Tensor:
    """-log p(x | plan) in nats, (B,), exactly: every step of the plan with the true values forced in."""
    total = torch.zeros(len(y0), dtype=torch.float32, device=y0.device)
    rank = plan.rank.to(y0.device)
    for k in range(1, plan.num_steps + 1):
        total = total + _step_nats(denoiser, canvas, y0, rank, torch.full_like(rank[:, 0], k), cond)
    return total


def _continuous(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    order: Order,
    law: str,
    u: Tensor,
    schedule: Schedule | None,
    race: Tensor | None,
    cond: Condition | None,
) -> Tensor:
    if schedule is None or race is not None:
        order = order if schedule is None else in_time(order, schedule)
        hidden, weight = hide_by_count(order, u, [canvas.mask()])
        weight = rates_by_count(canvas, law, hidden, weight, race)
    else:
        time = 1 - u  # in (0, 1]
        hidden = order.free & (order.key > schedule.alpha(time))
        weight = rates_by_time(canvas, law, schedule, time)
    y_t = _state(y0, order, hidden)
    events = next_events(canvas, law, y0, y_t, hidden, weight)
    return _weighed(denoiser, canvas, y_t, events, cond)


def _one_step(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    order: Order,
    law: str,
    u: Tensor,
    schedule: Schedule,
    steps: int,
    cond: Condition | None,
) -> Tensor:
    """-log p (B,) of what the step chosen by u reveals, averaged over all that it may reveal where they are few."""
    rank, step = ranks_by_time(canvas, law, order, schedule, steps), 1 + (u[:, 0] * steps).long()
    if not can_sum(canvas, law):
        return _step_nats(denoiser, canvas, y0, rank, step, cond)
    hidden = order.free & (rank >= step[:, None])
    y_t = _state(y0, order, hidden)
    events = step_events(canvas, law, y0, y_t, hidden, step_chance(canvas, law, schedule, step, steps))
    return _weighed(denoiser, canvas, y_t, events, cond)


def _state(y0: Tensor, order: Order, hidden: Tensor) -> Tensor:
    """y0 with what is hidden or absent masked, (B, N)."""
    return torch.where(hidden | (order.key == torch.inf), MASK_ID, y0)


def _weighed(denoiser: Denoiser, canvas: Canvas, y_t: Tensor, events: Events, cond: Condition | None) -> Tensor:
    """Σ_events weight · -log p, (B,); an event of weight 0 counts nothing, even where p is 0."""
    nats = reveal_nats(denoiser, canvas, y_t, events.after, cond)
    weight = events.weight.to(nats.dtype)
    return (nats.masked_fill(weight == 0, 0.0) * weight).sum((0, 2))


def _race(canvas: Canvas, law: str, steps: int | None, schedule: Schedule | None) -> Tensor:
    """The rates (N,) of a schedule to be counted under. Raises ValueError where there is no count."""
    rates = None if schedule is None else schedule.rates(canvas.num_subtokens)
    if rates is None or steps is not None or law != "independent":
        raise ValueError(
            f"by_count needs continuous time, law 'independent' and a schedule whose regions differ by their power "
            f"only; got steps={steps}, law {law!r}, {schedule}; leave it out to draw times"
        )
    return rates


def _step_nats(
    denoiser: Denoiser, canvas: Canvas, y0: Tensor, rank: Tensor, step: Tensor, cond: Condition | None
) -> Tensor:
    """-log p of what step (B,) of the plan reveals, (B,)."""
    before = torch.where((rank >= 0) & (rank < step[:, None]), y0, MASK_ID)
    after = torch.where((rank >= 0) & (rank <= step[:, None]), y0, MASK_ID)
    return reveal_nats(denoiser, canvas, before, after[None], cond).sum((0, 2))


def _masks(canvas: Canvas, y0: Tensor, given: Tensor | None, absent: Tensor | None) -> tuple[Tensor, Tensor]:
    canvas.check_digits(y0)
    given, absent = (as_mask(mask, canvas, len(y0), y0.device) for mask in (given, absent))
    if ((y0 < 0) & ~absent).any():
        place = ((y0 < 0) & ~absent).nonzero()[0].tolist()
        raise ValueError(f"sub-token {place[1]} of example {place[0]} is hidden in the data; mark it absent or give it")
    return given, absent


def _draw(
    canvas: Canvas, y0: Tensor, law: str, given: Tensor, absent: Tensor, generator: torch.Generator | None
) -> Order:
    u = torch.rand(y0.shape, generator=generator, dtype=torch.float64).to(y0.device)
    return draw_order(canvas, law, u, given, absent)


def _strata(batch: int, width: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """(B, width) uniforms in [0, 1): each row uniform, the rows of a column spread evenly (antithetic times)."""
    start = torch.rand(1, width, generator=generator, dtype=torch.float64)
    place = torch.stack([torch.randperm(batch, generator=generator) for _ in range(width)], -1) if batch else start[:0]
    return ((start + place / max(batch, 1)) % 1.0).to(device)
