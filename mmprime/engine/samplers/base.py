"""What a sampler is: at every step it says which sub-tokens are revealed.

A sampler is frozen and stateless: its fields are its options, and what it remembers from step to step (`Memory`) is the
rollout's. A *planned* sampler does not look: it turns an order into a plan before the first step and follows it, so its
samples have the bound of that plan. An *adaptive* sampler looks at what the denoiser says about every masked *unit*,
the next masked digit of a token (unit "digit", coarse first) or all its masked digits (unit "token"):

    step:  for each token with something masked:  p_i, the distribution of its unit;  a whole code v_i ~ p(v | visible)
           the sampler selects sub-tokens;  they are revealed with the values of v_i

What is selected by the distributions alone, one unit at a time, leaves the distribution of the sample exact; selecting
by the drawn value (as MaskGIT does) or several units at once does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Canvas
from ..heads import Head
from ..order import Order
from ..plan import Plan
from ..schedule import Schedule

UNITS = ("digit", "token")
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Start:
    """What a rollout begins with: given, absent (B, N) bool; streams: a generator for the plan of each example; heads:
    by span, where the sampler looks."""

    canvas: Canvas
    given: Tensor
    absent: Tensor
    streams: list[torch.Generator]
    heads: Mapping[str, Head] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return len(self.given)


@dataclass(frozen=True)
class View:
    """What a sampler sees at one step of A examples with L tokens and N sub-tokens.

    masked, visible (A, N): free sub-tokens that are masked, and that are visible. candidate (A, L): tokens with
    something masked; unmasked (A, L): free tokens that are wholly visible. feature (A, L, F) float64: what `describe`
    made of each candidate, 0 elsewhere; (A, N, F) where every digit is described. left, total (A,): units masked now
    and at the start. step: 1, 2, ... noise: uniforms in (0, 1) from the example's own stream, (A, L) or (A, N) as the
    sampler says. example (A,): numbers of the rows in the rollout, whose examples may end at different steps. memory:
    of the rollout, a row for each of its examples, to be changed in place.
    """

    step: int
    canvas: Canvas
    masked: Tensor
    visible: Tensor
    candidate: Tensor
    unmasked: Tensor
    left: Tensor
    total: Tensor
    noise: Tensor
    example: Tensor
    feature: Tensor
    memory: Memory

    def best(self, score: Tensor, count: Tensor, among: Tensor | None = None) -> Tensor:
        """(A, L): the `count` (A,) candidates (or tokens `among`) of the highest score; ties go to the earlier one."""
        among = self.candidate if among is None else among
        order = score.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        index = torch.arange(order.shape[-1], device=order.device).expand_as(order)
        return among & (torch.empty_like(order).scatter_(-1, order, index) < count[:, None])

    def gumbel(self) -> Tensor:
        """Exact standard Gumbel noise, float64."""
        return -(-self.noise.log()).log()

    def masked_of(self, tokens: Tensor, unit: str, depth: Tensor | None = None) -> Tensor:
        """(A, N): the masked digits of the units of some candidates (A, L); unit "digit" takes the next `depth` (A,) of
        a token's digits, one where None."""
        token = self.canvas.token_on(self.masked.device)
        chosen = (tokens & self.candidate)[:, token] & self.masked
        if unit == "digit":
            chosen &= _index_in_token(self.masked, token) < (1 if depth is None else depth[:, None])
        return chosen

    def parts(self, unit: str) -> tuple[Tensor, Tensor]:
        """(masked, unmasked): single digits, both (A, N), or tokens, both (A, L)."""
        return (self.masked, self.visible) if unit == "digit" else (self.candidate, self.unmasked)

    def revised(self, reveal: Tensor, remask: Tensor, unit: str) -> Reveal:
        """Masked parts to reveal and unmasked ones to mask again, as `parts` has them."""
        if unit == "digit":
            return Reveal(reveal, remask)
        token = self.canvas.token_on(self.visible.device)
        return Reveal(self.masked_of(reveal, unit), (remask & self.unmasked)[:, token] & self.visible)


def _index_in_token(masked: Tensor, token: Tensor) -> Tensor:
    """(A, N): how many masked digits of the same token come before each sub-token."""
    before = masked.long().cumsum(-1) - masked.long()
    start = torch.cat([token.new_ones(1, dtype=torch.bool), token[1:] != token[:-1]])
    return before - torch.where(start, before, 0).cummax(-1).values


@dataclass(frozen=True)
class Reveal:
    """reveal (A, N): masked sub-tokens that are revealed; remask (A, N): visible ones that are masked again."""

    reveal: Tensor
    remask: Tensor | None = None


@dataclass(frozen=True)
class Sampler(ABC):
    """A way to reveal; see the module's head."""

    name: ClassVar[str]
    looks: ClassVar[bool] = True  # at features of the units; else it selects before the forward pass
    features: ClassVar[int] = 1  # F of `describe`
    noise_per: ClassVar[str] = "token"  # uniforms in the view: one for each "token", each "digit", or "none"
    remasks: ClassVar[bool] = False  # may reveal nothing at a step; ends after `last_step`
    scores_unmasked: ClassVar[bool] = False  # what is unmasked is described too, as if it were masked

    @abstractmethod
    def select(self, view: View) -> Reveal:
        """What is revealed: something of each example, unless the sampler remasks or does not look."""

    def begin(self, start: Start) -> Memory:
        """What `select` and `describe` remember from step to step, before the first. Raises ValueError where the
        sampler does not fit."""
        return {}

    @property
    def unit_of(self) -> str:
        """The unit, "digit" or "token"."""
        return "digit"

    @property
    def each_digit(self) -> bool:
        """Whether each digit is described, and has noise of its own, not the next unit of each token."""
        return False

    @property
    def whole_tokens(self) -> bool:
        """Whether no token is ever visible in part."""
        return self.unit_of == "token"

    @property
    def last_step(self) -> int:
        """The last step of a sampler that remasks."""
        return 0

    @property
    def sharpness(self) -> float:
        """Power that the distribution drawn from is raised to; 1 leaves it."""
        return 1.0

    def window(self, candidate: Tensor) -> Tensor:
        """(A, L) tokens with something masked -> those that may be selected now; the others are not described."""
        return candidate

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        """What `select` is to know of some units: probs (m, U, K) float64, the factors of each one's distribution
        before temperature and top-p; value (m, U) drawn; index (m, 3) example, token, first masked digit (the digit
        itself where each is described). -> (m, F)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Planned(Sampler):
    """A sampler that does not look: it follows a plan that is made before the first step."""

    looks: ClassVar[bool] = False
    features: ClassVar[int] = 0
    noise_per: ClassVar[str] = "none"

    @abstractmethod
    def plan(self, start: Start) -> Plan:
        """The plan of a rollout."""

    def begin(self, start: Start) -> Memory:
        return {"rank": self.plan(start).rank}

    def select(self, view: View) -> Reveal:
        """Raises RuntimeError where the plan has ended and something is still masked: the rollout would never end."""
        rank = view.memory["rank"][view.example]
        if bool((view.masked & (rank < view.step)).any()):
            raise RuntimeError(f"the plan of {self.name!r} left sub-tokens masked before step {view.step}")
        return Reveal(view.masked & (rank == view.step))


@dataclass(frozen=True)
class FixedPlan(Planned):
    """A plan as it stands. Raises ValueError where it leaves out or adds to what the rollout is free to reveal."""

    fixed: Plan
    name: ClassVar[str] = "fixed"

    def plan(self, start: Start) -> Plan:
        rank = self.fixed.rank.to(start.given.device)
        if len(rank) != start.batch:
            raise ValueError(f"a plan for {len(rank)} examples, {start.batch} to draw; build it for as many")
        wrong = (rank > 0) != ~(start.given | start.absent)
        if bool(wrong.any()):
            b, n = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"sub-token {n} of example {b} has rank {int(rank[b, n])}; a plan gives a rank above 0 to exactly what "
                "is neither given nor absent"
            )
        return self.fixed


@dataclass(frozen=True)
class CountPlanned(Planned):
    """An order cut by the number of units: equally many at every step, or as the pace says; no step is idle.

    steps: most forward passes; pace: the share revealed after step k of K is α(1 - k/K).
    """

    steps: int = 16
    pace: Schedule = field(default_factory=Schedule.linear)

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @abstractmethod
    def order(self, start: Start) -> Order:
        """The order of each example."""

    def plan(self, start: Start) -> Plan:
        return Plan.by_count(self.order(start), steps=self.steps, pace=self.pace)


@dataclass(frozen=True)
class OfUnit(Sampler):
    """A sampler whose unit is an option, "digit" or "token". Raises ValueError on another word."""

    unit: str = field(default="digit", kw_only=True)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r}; there are {', '.join(UNITS)}")

    @property
    def unit_of(self) -> str:
        return self.unit


@dataclass(frozen=True)
class Revising(OfUnit):
    """A sampler that masks again what is unmasked, whole tokens or single digits, within `steps` forward passes.

    Raises ValueError on steps < 1.
    """

    steps: int = 16
    unit: str = field(default="token", kw_only=True)
    remasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)

    @property
    def each_digit(self) -> bool:
        return self.unit == "digit"

    @property
    def last_step(self) -> int:
        return self.steps


@dataclass(frozen=True)
class Paced(OfUnit):
    """An adaptive sampler with a budget: at most `steps` forward passes, units revealed as `pace` says.

    Raises ValueError on steps < 1.
    """

    steps: int = 16
    pace: Schedule = field(default_factory=Schedule.linear)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)

    def progress(self, view: View) -> float:
        """Share of the run that is over before this step, in [0, 1)."""
        return (view.step - 1) / self.steps

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """(A, L): candidates of the highest score come first."""

    def select(self, view: View) -> Reveal:
        """The best by score: as many units as the pace asks for, never none."""
        if view.step >= self.steps:
            return Reveal(view.masked)
        quota, candidates = self.quota(view), view.candidate.sum(-1)
        depth = (quota + candidates - 1) // candidates.clamp(min=1)
        count = (quota + depth - 1) // depth.clamp(min=1)
        return Reveal(view.masked_of(view.best(self.score(view), count), self.unit, depth))

    def quota(self, view: View) -> Tensor:
        """(A,) units to reveal at this step, at least one."""
        alpha = float(self.pace.alpha(torch.tensor(1 - view.step / self.steps, dtype=torch.float64)))
        done = (alpha * view.total.double() + 1e-9).floor().long()
        return torch.minimum((done - (view.total - view.left)).clamp(min=1), view.left)


def check_steps(steps: int) -> None:
    """Raises ValueError on steps < 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def chance(probs: Tensor, value: Tensor) -> Tensor:
    """Factors (m, U, K), value (m, U) -> (m, 1): the probability of the value."""
    return probs.gather(-1, value[..., None])[..., 0].prod(-1, keepdim=True)


def log_chance(probs: Tensor, value: Tensor) -> Tensor:
    """Factors (m, U, K), value (m, U) -> (m, 1): the log of the probability of the value, at least -690 a factor."""
    return probs.gather(-1, value[..., None])[..., 0].clamp(min=1e-300).log().sum(-1, keepdim=True)


def entropy_nats(probs: Tensor) -> Tensor:
    """Factors (m, U, K) -> (m, 1) nats: the sum of their entropies."""
    return -torch.special.xlogy(probs, probs).sum(-1).sum(-1, keepdim=True)
