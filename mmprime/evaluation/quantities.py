"""The likelihood numbers that exist, each with a name; one draw of any of them for a batch.

nelbo continuous LAW            E over states of Σ_events rate · -log p; the number of hidden units is uniform
nelbo continuous LAW by time    the same bound, hidden by t ~ U(0, 1) with weight 1/t, t stratified; its variance
                                diverges like ∫ dt/t, so prefer the count
nelbo T=K LAW                   the exact bound of K-step sampling
nelbo ... independent places P  the same under α_j = 1 - t^{p_j} for digit place j (`Schedule.places`)
nll order ORDER                 -log p(x | plan) of one fixed order, token by token: no bound but the exact
                                likelihood of sampling in that order (DUEL, arXiv 2603.01367)
joint_loss LAW                  the training loss; no bound (see `mmprime.cli.console.JOINT_LOSS_NOTE`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmprime.cli.console import ESTIMATORS, ORDERS
from mmprime.engine import (
    ABSENT,
    LAWS,
    Canvas,
    Condition,
    Denoiser,
    Plan,
    Schedule,
    halton_order,
    joint_loss,
    nelbo,
    plan_nats,
)

from .tasks import Task


@dataclass(frozen=True)
class Quantity:
    """kind: nelbo, nll or joint_loss. steps None is continuous time; order is for nll. place_powers: of a nelbo under
    law independent, none for one schedule."""

    kind: str
    law: str = "nested"
    steps: int | None = None
    estimator: str = "count"
    order: str = ""
    place_powers: tuple[float, ...] = ()

    def name(self, task: str) -> str:
        """As it stands in a report, e.g. "nelbo image|text T=4 nested"."""
        if self.kind == "nll":
            return f"nll {task} order {self.order}"
        if self.kind == "joint_loss":
            return f"joint_loss {task} {self.law}"
        time = "continuous" if self.steps is None else f"T={self.steps}"
        places = f" places {','.join(f'{power:g}' for power in self.place_powers)}" if self.place_powers else ""
        return f"nelbo {task} {time} {self.law}{places}" + (" by time" if self.estimator == "time" else "")

    @property
    def is_random(self) -> bool:
        """Whether another draw gives another number."""
        return self.kind != "nll"

    def draw(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        y0: Tensor,
        task: Task,
        samples: int,
        generator: torch.Generator,
        cond: Condition | None = None,
    ) -> Tensor:
        """y0 (B, N) -> (B,) nats: one estimate for each example, a mean of `samples` draws."""
        masks: dict[str, Any] = {"given": task.given, "absent": task.absent, "generator": generator, "cond": cond}
        if self.kind == "nll":
            rank = fixed_rank(canvas, self.order, task).expand(len(y0), -1)
            return plan_nats(denoiser, canvas, y0, Plan(rank, int(rank.max())), cond)
        if self.kind == "joint_loss":
            return torch.stack([joint_loss(denoiser, canvas, y0, law=self.law, **masks) for _ in range(samples)]).mean(
                0
            )
        schedule = Schedule.linear() if self.estimator == "time" else None
        if self.place_powers:
            schedule = Schedule.places(self.place_powers, canvas)
            masks["by_count"] = self.steps is None and self.estimator == "count"
        return nelbo(denoiser, canvas, y0, self.steps, self.law, samples=samples, schedule=schedule, **masks)


def list_quantities(
    law: str,
    laws: Sequence[str] = LAWS,
    steps: Sequence[int] = (),
    estimators: Sequence[str] = ("count",),
    orders: Sequence[str] = (),
    finite_laws: Sequence[str] = (),
    place_powers: Sequence[float] = (),
) -> list[Quantity]:
    """Continuous bounds under `law` and `laws`, T-step bounds under `law` and `finite_laws`, fixed orders, the joint
    loss under `law`; with place powers also continuous and T-step bounds under these.

    Raises ValueError on unknown names.
    """
    for known, asked in ((LAWS, (law, *laws, *finite_laws)), (ESTIMATORS, estimators), (ORDERS, orders)):
        for name in asked:
            if name not in known:
                raise ValueError(f"unknown {_kind_of(known)} {name!r}; there are {', '.join(known)}")
    continuous = [Quantity("nelbo", each, None, way) for each in dict.fromkeys([law, *laws]) for way in estimators]
    finite = [Quantity("nelbo", each, count) for each in dict.fromkeys([law, *finite_laws]) for count in steps]
    powers = tuple(place_powers)
    if powers:
        continuous += [Quantity("nelbo", "independent", None, way, place_powers=powers) for way in estimators]
        finite += [Quantity("nelbo", "independent", count, place_powers=powers) for count in steps]
    fixed = [Quantity("nll", law, order=order) for order in orders]
    return [*continuous, *finite, *fixed, Quantity("joint_loss", law)]


def _kind_of(known: Sequence[str]) -> str:
    return {LAWS: "law", ESTIMATORS: "estimator", ORDERS: "order"}[tuple(known)]


def fixed_rank(canvas: Canvas, order: str, task: Task) -> Tensor:
    """(1, N) ranks: raster, reversed and halton show a token at a time, coarse_first a digit at a time, each digit
    place of all tokens before the next. Nothing random. Raises ValueError on an unknown order."""
    token, digit = canvas.token_of, canvas.digit_of
    if order == "halton":
        place = torch.empty(canvas.num_tokens, dtype=torch.int64)
        for span in canvas.spans:
            tokens = canvas.token_slice(span.name)
            place[tokens] = torch.empty_like(place[tokens]).scatter_(
                0, halton_order(span), torch.arange(span.num_tokens)
            ) + int(tokens.start)
        priority = place[token]
    elif order in ORDERS:
        priority = {"raster": token, "reversed": -token, "coarse_first": digit * canvas.num_tokens + token}[order]
    else:
        raise ValueError(f"unknown order {order!r}; there are {', '.join(ORDERS)}")
    free = ~(task.given | task.absent)
    rank = torch.zeros_like(token)
    rank[task.absent] = ABSENT
    rank[free] = 1 + priority[free].unique(return_inverse=True)[1]
    return rank[None]
