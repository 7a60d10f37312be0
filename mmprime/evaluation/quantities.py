"""The likelihood numbers that exist, each with a name; one estimate of any of them for a batch.

nelbo continuous MASKING          E over states of Σ_reveals rate · -log p; the number of masked units is uniform
nelbo continuous MASKING by time  the same bound, masked by t ~ U(0, 1) with weight 1/t, t stratified; its variance
                                  diverges like ∫ dt/t, so prefer the count
nelbo T=K MASKING                 the exact bound of K-step sampling
nelbo T=K sampler NAME OPTIONS    the bound of K steps of a planned sampler, by its own plans
nelbo ... levels P,P              the same under α_j = 1 - t^{p_j} for digit level j (`Schedule.levels`)
nll order ORDER                   -log p(x | plan) of one fixed order, token by token: no bound but the exact
                                  likelihood of sampling in that order (DUEL, arXiv 2603.01367)
joint_loss MASKING                the training loss; no bound (see `JOINT_LOSS_NOTE`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmprime.engine import (
    ABSENT,
    MASKINGS,
    SAMPLERS,
    Canvas,
    Denoiser,
    Masking,
    Plan,
    Rows,
    Sampler,
    generator_of,
    halton_order,
    joint_loss,
    masking_of,
    mix,
    nelbo,
    plan_nats,
    planned_nelbo,
)  # fmt: skip
from mmprime.engine.samplers import Planned, Start, sampler_words, with_steps
from mmprime.engine.schedule import LevelPowers

from .names import ESTIMATORS, ORDERS
from .tasks import Box


@dataclass(frozen=True)
class Quantity:
    """kind: nelbo, nll or joint_loss. masking: with its schedule, which may be powers by level; steps None is
    continuous time; order is for nll; sampler: whose own plans are scored."""

    kind: str
    masking: Masking
    steps: int | None = None
    order: str = ""
    sampler: Planned | None = None

    def name(self, task: str) -> str:
        """As it stands in a report, e.g. "nelbo image|text T=4 nested"."""
        if self.kind == "nll":
            return f"nll {task} order {self.order}"
        if self.kind == "joint_loss":
            return f"joint_loss {task} {self.masking.name}"
        time = "continuous" if self.steps is None else f"T={self.steps}"
        if self.sampler is not None:
            return f"nelbo {task} {time} sampler {sampler_words(self.sampler)}"
        schedule = "" if self.masking.schedule is None else f" {str(self.masking.schedule).replace(':', ' ')}"
        return f"nelbo {task} {time} {self.masking.name}{schedule}" + (" by time" if self.masking.by_time else "")

    @property
    def is_random(self) -> bool:
        """Whether another estimate gives another number."""
        return self.kind != "nll"

    def seed(self, seed: int) -> int:
        """Of the random numbers of this quantity."""
        return mix(seed, self.steps or 0, self.masking.seed, self.kind == "joint_loss")

    def check(self, canvas: Canvas) -> None:
        """Raises ValueError where the sampler makes no plan of the canvas."""
        if self.sampler is not None:
            free = canvas.full_mask(None, 1)
            self.sampler.plan(Start(canvas, free, free, [generator_of(0)]))

    def nats(self, denoiser: Denoiser, canvas: Canvas, rows: Rows, samples: int, generator: torch.Generator) -> Tensor:
        """(B,) nats of B rows: one estimate for each, a mean of `samples` draws."""
        if self.kind == "nll":
            rank = fixed_rank(canvas, self.order, rows.given[0], rows.absent[0]).expand(len(rows), -1)
            return plan_nats(denoiser, canvas, rows.y, Plan(rank, int(rank.max())), rows.cond)
        if self.sampler is not None:
            return planned_nelbo(denoiser, canvas, rows, self.sampler, None, samples, generator)
        masking = self.masking
        if masking.schedule is not None:
            masking = replace(masking, schedule=masking.schedule.on(canvas))
        if self.kind == "joint_loss":
            losses = [joint_loss(denoiser, canvas, rows, None, generator, masking) for _ in range(samples)]
            return torch.stack(losses).mean(0)
        return nelbo(denoiser, canvas, rows, self.steps, masking, None, samples, generator)


@dataclass(frozen=True)
class Bounds:
    """Which likelihood numbers: continuous bounds under `masking` and `maskings`, T-step bounds under `masking` and
    `finite`, and of the planned `sampler`, exact likelihoods of fixed orders, the joint loss under `masking`.

    masking: the process the model was trained on. level_powers: for each digit level (`Schedule.levels`), for
    continuous and T-step bounds of independent digits under these too. estimators: of continuous bounds. tasks: names
    of those wanted, None for all. boxes: of image codes, scored given the rest.
    """

    masking: str | Masking
    maskings: Sequence[str] = tuple(MASKINGS)
    steps: Sequence[int] = ()
    finite: Sequence[str] = ()
    estimators: Sequence[str] = ("count",)
    orders: Sequence[str] = ()
    sampler: Sampler | None = None
    level_powers: Sequence[float] = ()
    tasks: Sequence[str] | None = None
    boxes: Sequence[Box] = ()

    def quantities(self) -> list[Quantity]:
        """All of them, in the order of a report. Raises ValueError on unknown names, and on a sampler without a
        plan."""
        if not (self.sampler is None or isinstance(self.sampler, Planned)):
            known_planned = ", ".join(name for name, kind in SAMPLERS.items() if issubclass(kind, Planned))
            raise ValueError(
                f"sampler {self.sampler.name!r} follows no plan, so its samples have no bound here; those that do are "
                f"{known_planned}"
            )
        for what, known, named in (("estimator", ESTIMATORS, self.estimators), ("order", ORDERS, self.orders)):
            for name in named:
                if name not in known:
                    raise ValueError(f"unknown {what} {name!r}; there are {', '.join(known)}")
        trained, levels = masking_of(self.masking), tuple(self.level_powers)
        raced = [replace(masking_of("independent"), schedule=LevelPowers(levels))] if levels else []

        def several(names: Sequence[str]) -> list[Masking]:
            return [*{each.name: each for each in (trained, *map(masking_of, names))}.values(), *raced]

        over_time, over_steps = several(self.maskings), several(self.finite)
        by_time = [way == "time" for way in self.estimators]
        return [
            *(Quantity("nelbo", replace(each, by_time=way)) for each in over_time for way in by_time),
            *(Quantity("nelbo", each, count) for each in over_steps for count in self.steps),
            *(self._of_sampler(trained, count) for count in self.steps if self.sampler is not None),
            *(Quantity("nll", trained, order=order) for order in self.orders),
            Quantity("joint_loss", trained),
        ]

    def _of_sampler(self, trained: Masking, steps: int) -> Quantity:
        assert isinstance(self.sampler, Planned)
        sampler = with_steps(self.sampler, steps)
        assert isinstance(sampler, Planned)
        return Quantity("nelbo", trained, steps, sampler=sampler)


def fixed_rank(canvas: Canvas, order: str, given: Tensor, absent: Tensor) -> Tensor:
    """(1, N) ranks: raster, reversed and halton reveal a token at a time, coarse_first a digit at a time, each digit
    level of all tokens before the next. given, absent (N,) bool. Nothing random. Raises ValueError on another order."""
    token, digit = canvas.token_of, canvas.digit_of
    if order == "halton":
        position = torch.empty(canvas.num_tokens, dtype=torch.int64)
        for span in canvas.spans:
            tokens = canvas.token_slice(span.name)
            position[tokens] = halton_order(span).argsort() + int(tokens.start)
        priority = position[token]
    elif order in ORDERS:
        priority = {"raster": token, "reversed": -token, "coarse_first": digit * canvas.num_tokens + token}[order]
    else:
        raise ValueError(f"unknown order {order!r}; there are {', '.join(ORDERS)}")
    given, absent = given.cpu(), absent.cpu()
    free = ~(given | absent)
    rank = torch.zeros_like(token)
    rank[absent] = ABSENT
    rank[free] = 1 + priority[free].unique(return_inverse=True)[1]
    return rank[None]
