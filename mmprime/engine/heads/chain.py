"""The chain head: the digits of a token that are revealed at one step, one after another.

    log p(y_R | h, y_V) = Σ_{j in R} log p_j(y_j | h, y_V, y_i : i in R, round(i) < round(j)),    round(j) = floor(j k
    / S)

for any set R of masked digits, levels in order. With k = S rounds every digit sees all that were drawn before it and
nothing is lost inside the token; the digits of one round are independent given the rounds before. k = 1 is the factored
head. The network gives p_j for any set of known digits, so the head serves every masking process; its conditionals need
not agree with one another, and the bound is that of the sampler which draws exactly what a step reveals.

Sources: Larochelle & Murray, NADE (AISTATS 2011), for a small network inside; BAR, arXiv 2602.09024, for rounds of
masked bits inside a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Span
from ..codec import MASK_ID
from .base import (
    DigitQuery,
    Head,
    Logits,
    NonFiniteLogits,
    Request,
    SampledDigits,
    Tokens,
    UnitDistribution,
    sample_from,
)


@dataclass(frozen=True)
class ChainHead(Head):
    """The digits revealed at one step of a token one after another. rounds: k >= 1, None for one round a digit. sigma:
    the width of soft targets (`SoftTargets`) in `nats`, 0 for the true values alone.

    Raises ValueError on rounds < 1.
    """

    rounds: int | None = None
    sigma: float = 0.0
    name: ClassVar[str] = "chain"
    chains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def round_of(self, span: Span) -> Tensor:
        """(S,) the round of each level."""
        levels = span.codec.num_digits
        return torch.arange(levels) * min(self.rounds or levels, levels) // levels

    def check(self, span: Span) -> None:
        codec = span.codec
        if codec.num_codes != codec.num_cells:
            raise ValueError(
                f"span {span.name!r}: the head {self.name!r} gives every combination of digits a chance, and of "
                f"{codec.num_cells} only {codec.num_codes} are codes; choose radices whose product is "
                f"{codec.num_codes}, or the head 'softmax'"
            )

    def log_probs(self, network: Logits, tokens: Tokens, query: DigitQuery) -> Tensor:
        """(R, K) log p of the digits asked for, float32 or float64, -inf from a level's radix on."""
        logits = network.digit_logits(tokens.hidden, tokens.span, query)
        if logits.dtype != torch.float64:
            logits = logits.float()
        finite = logits.amax(-1).isfinite()
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise NonFiniteLogits(
                f"span {tokens.span.name!r}, token {int(tokens.index[query.token[row]])}, digit level "
                f"{int(query.level[row])}: the largest logit is {float(logits[row].amax().detach())}; a denoiser gives "
                "finite logits"
            )
        return torch.log_softmax(logits, -1)

    def nats(self, network: Logits, tokens: Tokens, aim: Tensor, known: Tensor | None = None) -> Tensor:
        """Digits of one round are independent, given all that is visible or revealed in an earlier one."""
        revealed = (aim >= 0) & (tokens.visible < 0)  # (A, M, S)
        state, token, level = revealed.nonzero(as_tuple=True)
        rounds = self.round_of(tokens.span).to(aim.device)
        seen = revealed if known is None else revealed & known
        before = seen[state, token] & (rounds < rounds[level, None])
        context = torch.where(before, aim[state, token], tokens.visible[token])
        log_p = self.log_probs(network, tokens, DigitQuery(token, level, context))
        nats = self._digit_nats(log_p, aim[state, token, level], tokens.span, level)
        total = nats.new_zeros(aim.shape[0] * len(tokens)).index_add(0, state * len(tokens) + token, nats)
        total = total.view(aim.shape[:2])
        never = ((aim != tokens.visible) & (tokens.visible >= 0)).any(-1)  # the aim contradicts what is visible
        return total.masked_fill(never, torch.inf) if bool(never.any()) else total

    def _digit_nats(self, log_p: Tensor, true: Tensor, span: Span, level: Tensor) -> Tensor:
        """log p (R, K) of the values of digits -> -log p (R,) of their true values, or of soft targets."""
        if not self.sigma:
            return -log_p.gather(1, true[:, None])[:, 0]
        value = torch.arange(log_p.shape[1], device=log_p.device)
        weight = -(value - true[:, None]).double().square() / (2 * self.sigma**2)
        radix = torch.tensor(span.codec.radices, device=log_p.device)[level]
        q = weight.masked_fill(value >= radix[:, None], -torch.inf).softmax(-1).to(log_p)
        return -(q * log_p.masked_fill(q == 0, 0.0)).sum(-1)

    def sample(self, network: Logits, tokens: Tokens, request: Request) -> SampledDigits:
        """Exactly the digits asked for are drawn. Temperature and top_p apply to each digit in turn.

        The factors of the unit "token" are the conditionals along the digits drawn: their product is the chance of
        these digits exactly, their entropies sum to an unbiased estimate of the joint entropy (exact where k = 1).
        """
        span, alone = tokens.span, request.unit == "each"
        again = torch.zeros_like(request.asked) if request.again is None or alone else request.again
        asked = request.asked & (tokens.visible < 0)
        digits = tokens.visible.masked_fill(again, MASK_ID)
        rounds = self.round_of(span).to(digits.device)
        confidence, entropy = request.u.new_zeros(2, *digits.shape)
        factors = self._point_masses(tokens)
        for round_ in rounds.unique().tolist():
            token, level = ((asked | again) & (rounds == round_)).nonzero(as_tuple=True)
            if not len(token):
                continue
            log_p = self.log_probs(network, tokens, DigitQuery(token, level, digits[token]))
            factors[token, level] = log_p.double().exp()
            heat = request.temperature
            heat = heat[token, level] if isinstance(heat, Tensor) else heat
            value, *sure = sample_from(log_p, request.u[token, level], heat, request.top_p)
            digits[token, level] = torch.where(asked[token, level], value, tokens.visible[token, level])
            confidence[token, level], entropy[token, level] = sure
        value = digits.clamp(min=0)
        if alone and request.again is not None:
            factors[request.again] = self.as_if_masked(network, tokens, request.again).double().exp()
        if request.unit == "digit":
            row = torch.arange(len(tokens), device=digits.device)
            factors, value = factors[row, request.first][:, None], value[row, request.first][:, None]
        return SampledDigits(digits, confidence, entropy, UnitDistribution(factors, value))

    def as_if_masked(self, network: Logits, tokens: Tokens, asked: Tensor) -> Tensor:
        """The network is asked for a digit by the others, the earlier and the later ones, that are visible."""
        token, level = asked.nonzero(as_tuple=True)
        known = tokens.visible[token].scatter(1, level[:, None], MASK_ID)
        return self.log_probs(network, tokens, DigitQuery(token, level, known))

    def _point_masses(self, tokens: Tokens) -> Tensor:
        """(M, S, K) float64: a visible digit has the chance 1, and so has the first value of a masked one."""
        shape = *tokens.visible.shape, max(tokens.span.codec.radices)
        masses = torch.zeros(shape, dtype=torch.float64, device=tokens.visible.device)
        return masses.scatter_(-1, tokens.visible.clamp(min=0)[..., None], 1.0)

    def size(self, span: Span) -> int:
        return span.codec.num_digits * max(span.codec.radices)

    def num_uniforms(self, span: Span) -> int:
        return span.codec.num_digits

    def unit_shape(self, span: Span, unit: str) -> tuple[int, int]:
        return (1 if unit == "digit" else span.codec.num_digits), max(span.codec.radices)
