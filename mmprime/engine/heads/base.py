"""What a head is: the distribution of a token's masked digits, given the trunk's state and the digits that are visible.

    state h and visible digits y_V of a token  ->  p(y_R | h, y_V)  for any set R of its masked digits

Three things are asked of it: -log p of a reveal, a draw, and the distribution of a unit for samplers that look. A
distribution of a unit is a product of U *factors*: one where the head has the whole table, one for each digit
elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ..canvas import Span
from ..rng import categorical

_NEVER = -800.0  # exp of it is 0 in float64


class NonFiniteLogits(ValueError):
    """A token's logits are no distribution: NaN, +inf, or -inf for every value. The message names span and token."""


class DigitQuery(NamedTuple):
    """Which digits a network is asked for: R rows of token (R,) among its M, level (R,), known (R, S) digits of that
    token, `MASK_ID` where unknown."""

    token: Tensor
    level: Tensor
    known: Tensor


class Logits(Protocol):
    """What heads ask of a network; hidden (M, D) of tokens of a span."""

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        """(M, C) in code order."""

    def code_logits(self, hidden: Tensor, span: Span, codes: Tensor) -> Tensor:
        """(M, K) of the codes (M, K) asked for."""

    def code_nats(self, hidden: Tensor, span: Span, code: Tensor) -> Tensor | None:
        """-log softmax (M,) of the logits at one code (M,) of each token; None: by `logits`."""

    def digit_logits(self, hidden: Tensor, span: Span, query: DigitQuery) -> Tensor:
        """(R, max b) of the digits asked for, -inf from a level's radix on."""


@dataclass(frozen=True)
class Tokens:
    """M tokens of a span: hidden (M, D), visible (M, S) digits, `MASK_ID` where masked, index (M,) in the span."""

    span: Span
    hidden: Tensor
    visible: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: Tensor | slice) -> Tokens:
        return Tokens(self.span, self.hidden[index], self.visible[index], self.index[index])


@dataclass(frozen=True)
class Request:
    """What to draw of M tokens: asked (M, S) bool digits that may be revealed; u (M, U) uniforms in [0, 1);
    temperature: a number or (M, S), 0 is greedy; top_p in (0, 1]. unit: "", or the unit to be described: "token", the
    first "digit" asked for, or "each" digit alone. again (M, S) bool: visible digits to be described as if they were
    masked, together or each alone, None for none. strict: refuse a token whose visible digits agree with no code, else
    its digits are `MASK_ID`."""

    asked: Tensor
    u: Tensor
    temperature: float | Tensor = 1.0
    top_p: float = 1.0
    unit: str = ""
    again: Tensor | None = None
    strict: bool = True

    @property
    def first(self) -> Tensor:
        """(M,) the first digit asked for."""
        return self.asked.long().argmax(-1)


class UnitDistribution(NamedTuple):
    """probs (M, U, K) float64: the factors of the distributions of units, before temperature and top-p; value (M, U):
    what was drawn or is visible, in their terms. Of the unit "each" every digit is one: (M, S, K) and (M, S)."""

    probs: Tensor
    value: Tensor


@dataclass(frozen=True)
class SampledDigits:
    """digits (M, S): drawn, or visible; confidence, entropy (M, S): probability of what was drawn, and entropy in nats
    of the distribution it was drawn from, that of the whole code where codes are drawn. unit: what was asked for,
    if."""

    digits: Tensor
    confidence: Tensor
    entropy: Tensor
    unit: UnitDistribution | None = None


class Head(ABC):
    """The distribution of a token's masked digits; a head has no weights, it asks the network for logits."""

    name: ClassVar[str]
    chains: ClassVar[bool] = False  # a digit may depend on others that the same step reveals
    apart: ClassVar[bool] = False  # the digits of a token are independent given its state
    kept: ClassVar[int] = 1 << 24  # numbers that wait for the backward pass; where there are more, all is computed anew

    @abstractmethod
    def check(self, span: Span) -> None:
        """Raises ValueError where the head cannot serve a span's codec."""

    @abstractmethod
    def nats(self, network: Logits, tokens: Tokens, aim: Tensor, known: Tensor | None = None) -> Tensor:
        """-log p(aim | visible) in nats, (A, M), for A states aim (A, M, S) that extend the visible digits; 0 where
        nothing is revealed, +inf where it cannot be. known (A, M, S) bool: the revealed digits on which later ones of
        the same token may depend, None for all. Raises NonFiniteLogits."""

    @abstractmethod
    def sample(self, network: Logits, tokens: Tokens, request: Request) -> SampledDigits:
        """Sample the digits asked for. Raises ValueError where no code agrees with a token's visible digits, and
        NonFiniteLogits."""

    @abstractmethod
    def as_if_masked(self, network: Logits, tokens: Tokens, asked: Tensor) -> Tensor:
        """log p (R, max b) of each of the R digits in `asked` (M, S), were it alone masked for the head: the others of
        its token are known as they are, and the state h is that of the canvas with the digit in its place. -inf from a
        level's radix on. Raises NonFiniteLogits."""

    @abstractmethod
    def size(self, span: Span) -> int:
        """Numbers that one token takes in memory."""

    @abstractmethod
    def num_uniforms(self, span: Span) -> int:
        """U: uniforms that the draw of one token takes."""

    @abstractmethod
    def unit_shape(self, span: Span, unit: str) -> tuple[int, int]:
        """(U, K): factors of a unit, and the most values that one has."""


def sample_from(
    logits: Tensor, u: Tensor, temperature: float | Tensor = 1.0, top_p: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample from the softmax of logits (M, K) whose maxima are finite, by uniforms u (M,): exact in float64.

    Returns index (M,), confidence (M,) its probability, and entropy (M,) in nats of all of them. temperature (a number
    or (M,)) 0 takes the most probable. top_p keeps the smallest set of values of at least that probability.
    """
    score = logits.double() - logits.amax(-1, keepdim=True).double()
    heat = temperature[:, None].to(score) if isinstance(temperature, Tensor) else float(temperature)
    greedy = heat == 0
    if heat != 1 if isinstance(heat, float) else bool((heat != 1).any()):
        score /= heat + greedy
    weights = score.clamp_(min=_NEVER).exp()
    if greedy if isinstance(greedy, bool) else bool(greedy.any()):
        surest = torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1.0)
        weights = surest if isinstance(greedy, bool) else torch.where(greedy, surest, weights)
    if top_p < 1:
        weights = _nucleus(weights, top_p)
    index = categorical(weights, u.to(weights.device))
    total = weights.sum(-1)
    entropy = total.log() - torch.linalg.vecdot(weights, score) / total
    return index, weights.gather(-1, index[:, None])[:, 0] / total, entropy


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of values whose share reaches top_p."""
    ordered, index = weights.sort(dim=-1, descending=True, stable=True)
    before = (ordered.cumsum(-1) - ordered) / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(weights).scatter_(-1, index, ordered.masked_fill(before >= top_p, 0.0))
