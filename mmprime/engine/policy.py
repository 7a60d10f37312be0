"""Policies: which sub-tokens to reveal is decided while sampling, from what the denoiser says about each of them.

    step:  for each token with something hidden:  p_i, the law of its *unit*;  a whole code v_i ~ p(v | visible digits)
           the policy chooses tokens;  they show the digits of their unit, with the values of v_i

The unit of a token is its next hidden digit, coarse first (unit "digit"), or all of its hidden digits (unit "token").
A policy may also name single sub-tokens, in any order (`Digits`). A plan is the policy that does not look. What a
policy chooses by the *laws* alone, one unit at a time, leaves the distribution of the sample exact; choosing by the
drawn value (as MaskGIT does) or several units at once does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .canvas import Canvas
from .schedule import Schedule

UNITS = ("digit", "token")
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Look:
    """What a policy sees at one step of a batch of B examples with L tokens.

    candidate (B, L): tokens with something hidden. feature (B, L, F) float64: what `Policy.describe` made of each
    candidate, 0 elsewhere. left, total (B,): units hidden now and at the start. step: 1, 2, ... noise: uniforms in
    (0, 1) from the example's own stream, (B, L), or (B, N) for policies with `digit_noise`. shown (B, L): free tokens
    that are wholly visible. example (B,): numbers of the rows in the run, whose examples may be done at different
    steps. hidden, visible (B, N): free sub-tokens of the canvas that are hidden, and that are visible.
    memory: of the run, as `Policy.remember` began it, a row for each example of the run; to be changed in place.
    """

    step: int
    candidate: Tensor
    feature: Tensor
    left: Tensor
    total: Tensor
    noise: Tensor
    shown: Tensor
    example: Tensor
    canvas: Canvas
    hidden: Tensor
    visible: Tensor
    memory: Memory = field(default_factory=dict)

    def best(self, score: Tensor, count: Tensor, among: Tensor | None = None) -> Tensor:
        """(B, L): the `count` (B,) candidates (or tokens `among`) of the highest score; ties go to the earlier one."""
        among = self.candidate if among is None else among
        order = score.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        place = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))
        return among & (place < count[:, None])

    def gumbel(self) -> Tensor:
        """(B, L) exact standard Gumbel noise, float64."""
        return -(-self.noise.log()).log()


@dataclass(frozen=True)
class Digits:
    """A choice by single sub-tokens. reveal (B, N): hidden ones that are shown; hide (B, N): visible ones that are
    hidden again (policies that remask)."""

    reveal: Tensor
    hide: Tensor | None = None


@dataclass(frozen=True)
class Choice:
    """reveal (B, L): tokens that show their unit. depth (B,): how many of a token's digits that is, 1 if None (unit
    "digit" only). hide (B, L): shown tokens that are hidden again (policies that remask)."""

    reveal: Tensor
    depth: Tensor | None = None
    hide: Tensor | None = None

    def digits(self, look: Look, unit: str) -> Digits:
        """The sub-tokens of the chosen units."""
        token = look.canvas.token_of.to(look.hidden.device)
        reveal = (self.reveal & look.candidate)[:, token] & look.hidden
        if unit == "digit":
            depth = torch.ones_like(look.left) if self.depth is None else self.depth
            reveal &= _place_among(look.hidden, token) < depth[:, None]
        return Digits(reveal, None if self.hide is None else (self.hide & look.shown)[:, token] & look.visible)


def _place_among(hidden: Tensor, token: Tensor) -> Tensor:
    """(A, N): how many hidden digits of the same token come before each sub-token."""
    before = hidden.long().cumsum(-1) - hidden.long()
    start = torch.cat([token.new_ones(1, dtype=torch.bool), token[1:] != token[:-1]])
    base = torch.where(start, before, 0).cummax(-1).values
    return before - base


class Policy:
    """Base of all policies: options, and no state. What a policy remembers from step to step is the run's, which may be
    one of many of the same policy. Raises ValueError on an unknown unit."""

    features = 1  # F of `describe`
    remasks = False  # may hide again, and shows nothing at some steps; ends at `last_step`
    last_step = 0
    blind = False  # chooses without features, before the forward pass, which only those with something to show need
    digit_noise = False  # `Look.noise` has a number for each sub-token
    judges_shown = False  # shown tokens are described too, by their law as if hidden (unit "token")

    def __init__(self, unit: str = "digit") -> None:
        if unit not in UNITS:
            raise ValueError(f"unknown unit {unit!r}; there are {', '.join(UNITS)}")
        self.unit = unit

    def remember(self, batch: int, canvas: Canvas) -> Memory:
        """What `choose` and `describe` remember from step to step, as it is before the first; the run keeps it.

        Raises ValueError where the policy is for another batch.
        """
        return {}

    def window(self, hidden: Tensor) -> Tensor:
        """(A, L) tokens with something hidden -> those of them that may be chosen now; the others are not described."""
        return hidden

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        """What `choose` is to know of some units: law (m, K) float64 probabilities, before temperature and top-p; value
        (m,) the one drawn; place (m, 3) example, token, first hidden digit; memory of the run. -> (m, F)."""
        raise NotImplementedError

    def choose(self, look: Look) -> Choice | Digits:
        """Which candidates show their unit, or which sub-tokens are shown: at least one of each example, unless the
        policy remasks."""
        raise NotImplementedError

    @property
    def sharpness(self) -> float:
        """Power that the drawn law is raised to; 1 leaves it."""
        return 1.0


class Paced(Policy):
    """A policy with a budget: at most `steps` forward passes, units shown as `pace` says (linear: equally many).

    Raises ValueError on steps < 1.
    """

    def __init__(self, steps: int = 16, pace: Schedule | None = None, unit: str = "digit") -> None:
        super().__init__(unit)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps, self.pace = steps, pace or Schedule.linear()

    def progress(self, look: Look) -> float:
        """Share of the run that is over before this step, in [0, 1)."""
        return (look.step - 1) / self.steps

    def score(self, look: Look) -> Tensor:
        """(B, L): candidates of the highest score come first."""
        raise NotImplementedError

    def choose(self, look: Look) -> Choice:
        """The best by score: as many units as the pace asks for, never none."""
        candidates = look.candidate.sum(-1)
        if look.step >= self.steps:
            return Choice(look.candidate, look.left)
        quota = self.quota(look)
        depth = (quota + candidates - 1) // candidates.clamp(min=1)
        count = (quota + depth - 1) // depth.clamp(min=1)
        return Choice(look.best(self.score(look), count), depth)

    def quota(self, look: Look) -> Tensor:
        """(B,) units to show at this step, at least one."""
        alpha = float(self.pace.alpha(torch.tensor(1 - look.step / self.steps, dtype=torch.float64)))
        done = (alpha * look.total.double() + 1e-9).floor().long()
        return torch.minimum((done - (look.total - look.left)).clamp(min=1), look.left)


def entropy(law: Tensor) -> Tensor:
    """(m, K) -> (m,) nats."""
    return -torch.special.xlogy(law, law).sum(-1)
