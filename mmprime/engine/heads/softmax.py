"""The softmax head: one distribution over all C codes of a token.

For a token with logits g of its codes and a partly visible row y of digits,

    p(x | y) = softmax of g over the codes that agree with y
    log p(y_after | y) = logsumexp of log p(x | y) over the codes that agree with y_after too

The network is asked for the codes that agree with y only, where these are few. No (tokens, codes, digits) tensor is
built, and no cell without a code: codes stand in the order of their cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, NoReturn, cast

import torch
from torch import Tensor

from ..agreement import Agreement
from ..canvas import Span
from ..codec import MASK_ID
from .base import Head, Logits, NonFiniteLogits, Request, SampledDigits, Tokens, UnitDistribution, sample_from

MAX_CODES = 1 << 26


class Remaining(NamedTuple):
    """Some tokens, rows (m,) of those asked about, with K codes each of which those that agree with the visible digits
    y (m, S) have logits (m, K), float32 or float64, the others -inf. position (m, K), -1 for none; None for all C."""

    codes: Agreement
    rows: Tensor
    y: Tensor
    logits: Tensor
    position: Tensor | None

    @property
    def key(self) -> Tensor:
        """(m, K) or (C,) keys of the codes."""
        return self.codes.key if self.position is None else self.codes.key[self.position.clamp(min=0)]

    def log_posterior(self) -> Tensor:
        """log p(x | y) (m, K); -inf everywhere where no code of finite logits agrees with y: what is visible is
        impossible, and all that follows."""
        posterior = torch.log_softmax(self.logits, -1)
        if bool(posterior[:, 0].isnan().any()):
            never = self.logits.amax(-1, keepdim=True).isneginf()
            posterior = torch.log_softmax(self.logits.masked_fill(never, 0.0), -1).masked_fill(never, -math.inf)
        return posterior

    def log_mass(self, log_p: Tensor, aim: Tensor) -> Tensor:
        """log of the mass (m,) in log_p (m, K) of the codes that agree with aim (m, S)."""
        if not bool((aim >= 0).all()):
            cells = log_p.masked_fill(~self.codes.agree(self.key, aim), -math.inf)
            mass = torch.logsumexp(cells, -1)
            never = mass.isneginf()
            if bool(never.any()):  # its gradient would be NaN
                mass = torch.logsumexp(cells.masked_fill(never[:, None], 0.0), -1).masked_fill(never, -math.inf)
            return mass
        if self.position is None:
            index = self.codes.position(self.codes.index(torch.full_like(aim, MASK_ID), aim))
        else:
            index = self.codes.index(self.y, aim)
        never = ((self.y >= 0) & (self.y != aim)).any(-1) | (index < 0)
        return log_p.gather(1, index.clamp(min=0)[:, None])[:, 0].masked_fill(never, -math.inf)

    def margin(self, probs: Tensor, level: int) -> Tensor:
        """The mass (m, b) in probs (m, K) of each digit of a level."""
        digit = self.codes.digit(self.key, level).expand_as(probs)
        return probs.new_zeros(len(probs), self.codes.radices[level]).scatter_add(1, digit, probs)

    def log_margin(self, log_p: Tensor, level: int) -> Tensor:
        """The same of logarithms, by one logsumexp for each digit."""
        radix = self.codes.radices[level]
        if radix == self.codes.num_codes:  # the code is the digit
            return log_p if self.position is None else self.spread(log_p, -math.inf)
        digit = self.codes.digit(self.key, level).expand_as(log_p)
        top = log_p.new_full((len(log_p), radix), -math.inf).scatter_reduce(1, digit, log_p.detach(), "amax")
        top = top.masked_fill(top.isneginf(), 0.0)
        mass = torch.zeros_like(top).scatter_add(1, digit, (log_p - top.gather(1, digit)).exp())
        return (mass.clamp(min=0.5).log() + top).masked_fill(mass == 0, -math.inf)

    def spread(self, values: Tensor, empty: float) -> Tensor:
        """Values (m, K) of the codes -> (m, C) by position, the others empty."""
        if self.position is None:
            return values
        out = values.new_full((len(values), self.codes.num_codes + 1), empty)
        return out.scatter(1, self.position.where(self.position >= 0, self.codes.num_codes), values)[:, :-1]


class SoftmaxHead(Head):
    """One softmax over all codes: nothing is lost inside a token, at a cost of O(C)."""

    name: ClassVar[str] = "softmax"
    kept: ClassVar[int] = 1 << 26

    def check(self, span: Span) -> None:
        codec = span.codec
        if codec.num_codes > MAX_CODES:
            raise ValueError(
                f"span {span.name!r}: one softmax over {codec.num_codes} codes takes {4 * codec.num_codes} bytes a "
                "token; "
                "use the head 'factored' or 'chain'"
            )

    def remaining(self, network: Logits, tokens: Tokens, y: Tensor) -> Iterator[Remaining]:
        """Logits of the codes of M tokens that agree with y (M, S), in groups that hold each token once.

        A logit of -inf is a code that is impossible. Raises NonFiniteLogits.
        """
        for rows, position in tokens.span.codec.agreement(y.device).groups(y):
            partly = position is None and bool((y[rows] >= 0).any())
            yield self._remaining(network, tokens[rows], y[rows], rows, position, partly)

    def _remaining(
        self, network: Logits, tokens: Tokens, y: Tensor, rows: Tensor, position: Tensor | None, partly: bool
    ) -> Remaining:
        """Of the tokens of these rows; partly: some digits are visible of some of those that have all codes left."""
        codes = tokens.span.codec.agreement(y.device)
        if position is None:
            logits = _checked(network.logits(tokens.hidden, tokens.span), tokens)
            if codes.order is not None:
                logits = cast(Tensor, _Reordered.apply(logits, codes.order, codes.inverse))
            if partly:
                logits = logits.masked_fill(~codes.agree(codes.key, y), -math.inf)
        else:
            code = codes.code(position.clamp(min=0))
            logits = _checked(network.code_logits(tokens.hidden, tokens.span, code), tokens, code)
            logits = logits.masked_fill(position < 0, -math.inf)
        return Remaining(codes, rows, y, logits, position)

    def nats(self, network: Logits, tokens: Tokens, aim: Tensor, known: Tensor | None = None) -> Tensor:
        """Digits of a token are revealed jointly, so `known` changes nothing."""
        nats, order = [], []
        for rows, position in tokens.span.codec.agreement(aim.device).groups(tokens.visible):
            some, target, value = tokens[rows], aim[:, rows], None
            partly = position is None and bool((some.visible >= 0).any())
            if position is None and not partly and len(aim) == 1 and torch.is_grad_enabled():
                value = self._whole(network, some, target)
            if value is None:
                part = self._remaining(network, some, some.visible, rows, position, partly)
                log_p = part.log_posterior()
                value = torch.stack([-part.log_mass(log_p, each) for each in target])
            nats.append(value)
            order.append(rows)
        same = (aim == tokens.visible).all(-1)  # reveals nothing
        return torch.cat(nats, 1)[:, torch.cat(order).argsort()].masked_fill(same, 0.0)

    def _whole(self, network: Logits, tokens: Tokens, aim: Tensor) -> Tensor | None:
        """(1, m) nats of whole codes (1, m, S) of tokens of which nothing is visible, by `code_nats`; None where the
        network has another way, an aim is no whole code, or a number is not finite."""
        codes = tokens.span.codec.agreement(aim.device)
        position = codes.position(codes.index(tokens.visible, aim[0]))
        nats = network.code_nats(tokens.hidden, tokens.span, codes.code(position.clamp(min=0)))
        if nats is None or not bool(((aim[0] >= 0).all(-1) & (position >= 0) & nats.isfinite()).all()):
            return None
        return nats[None]

    def sample(self, network: Logits, tokens: Tokens, request: Request) -> SampledDigits:
        """Whole codes are drawn, also where some digits are asked for: part of an exact draw is a draw of the part.

        The temperature of a token is that of the first digit asked for; top_p applies to whole codes.
        """
        visible, unit, first = tokens.visible, request.unit, request.first
        digits = torch.full_like(visible, MASK_ID)
        sure = torch.zeros(2, *visible.shape, dtype=torch.float64, device=visible.device)
        described = unit in ("token", "digit")
        again = described and request.again is not None and bool(request.again.any())
        state = visible.masked_fill(cast(Tensor, request.again), MASK_ID) if again else visible
        shape = len(tokens), self.unit_shape(tokens.span, unit)[1]
        probs, value = sure.new_zeros(shape if described else (0, 0)), torch.zeros_like(first)
        probs = sure.new_zeros(*visible.shape, max(tokens.span.codec.radices)) if unit == "each" else probs
        heat = request.temperature
        for part in self.remaining(network, tokens, state):
            codes, rows = part.codes, part.rows
            logits = part.logits
            if again:
                logits = logits.masked_fill(~codes.agree(part.key, visible[rows]), -math.inf)
            never = logits.amax(-1).isneginf()
            if bool(never.any()):
                if request.strict:
                    raise ValueError(f"no code agrees with the visible digits {visible[rows][never][0].tolist()}")
                logits = logits.masked_fill(never[:, None], 0.0)
            warm = heat[rows].gather(1, first[rows, None])[:, 0] if isinstance(heat, Tensor) else heat
            index, *spread = sample_from(logits, request.u[rows, 0], warm, request.top_p)
            sure[:, rows] = torch.stack(spread)[:, :, None].expand(2, len(rows), digits.shape[1])
            position = index if part.position is None else part.position.gather(1, index[:, None])[:, 0]
            key = codes.key[position.clamp(min=0)]
            drawn = torch.stack([codes.digit(key, level) for level in range(digits.shape[1])], -1)
            digits[rows] = drawn.masked_fill(never[:, None], MASK_ID)
            value[rows] = position
            if unit:
                self._describe(part, unit, first[rows], probs)
        if not unit:
            return SampledDigits(digits, sure[0], sure[1])
        if unit == "each":
            if request.again is not None and bool(request.again.any()):
                probs[request.again] = self.as_if_masked(network, tokens, request.again).double().exp()
            return SampledDigits(digits, sure[0], sure[1], UnitDistribution(probs, digits.clamp(min=0)))
        value = value if unit == "token" else digits.gather(1, first[:, None])[:, 0]
        return SampledDigits(digits, sure[0], sure[1], UnitDistribution(probs[:, None], value[:, None]))

    def _describe(self, part: Remaining, unit: str, first: Tensor, probs: Tensor) -> None:
        """Write the distributions of the units of some tokens into their rows of probs: (M, C) of the codes, (M, b) of
        the first digit asked for, (M, S, b) of each."""
        p = part.log_posterior().exp().double()
        if unit == "token":
            probs[part.rows] = part.spread(p, 0.0)
            return
        for level, radix in enumerate(part.codes.radices):
            if unit == "each":
                probs[part.rows, level, :radix] = part.margin(p, level)
            elif bool((mine := first == level).any()):
                probs[part.rows[mine], :radix] = part.margin(p, level)[mine]

    def as_if_masked(self, network: Logits, tokens: Tokens, asked: Tensor) -> Tensor:
        """The conditional of a digit in the distribution of codes."""
        token, level = asked.nonzero(as_tuple=True)
        alone = tokens.visible[token].scatter(1, level[:, None], MASK_ID)
        radices, out, order = tokens.span.codec.radices, [], []
        for part in self.remaining(network, tokens[token], alone):
            log_p, mine = part.log_posterior(), level[part.rows]
            for axis in mine.unique().tolist():
                margin = part.log_margin(log_p, axis)[mine == axis]
                out.append(torch.nn.functional.pad(margin, (0, max(radices) - radices[axis]), value=-math.inf))
                order.append(part.rows[mine == axis])
        if not out:
            return tokens.hidden.new_zeros(0, max(radices))
        return torch.cat(out)[torch.cat(order).argsort()]

    def size(self, span: Span) -> int:
        return span.codec.num_codes

    def num_uniforms(self, span: Span) -> int:
        return 1

    def unit_shape(self, span: Span, unit: str) -> tuple[int, int]:
        return 1, max(span.codec.radices) if unit == "digit" else span.codec.num_codes


class _Reordered(torch.autograd.Function):
    """Columns by code -> by position; the gradient is the inverse gather, not a scatter-add."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return logits.index_select(-1, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(-1, inverse), None, None


def _checked(logits: Tensor, tokens: Tokens, codes: Tensor | None = None) -> Tensor:
    """Logits (M, K) of the codes (M, K), or of all, in float32 or float64. Raises NonFiniteLogits; where codes are
    chosen they may all be impossible."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    top = logits.amax(-1)  # NaN if any is
    wrong = ~top.isfinite() if codes is None else top.isnan() | top.isposinf()
    if bool(wrong.any()):
        _refuse(logits, wrong, tokens, codes)
    return logits


def _refuse(logits: Tensor, wrong: Tensor, tokens: Tokens, codes: Tensor | None) -> NoReturn:
    row = int(wrong.nonzero()[0])
    values = logits[row].detach()
    column = int((values.isnan() | values.isposinf()).long().argmax())
    what = (
        f"the logits of all {len(values)} codes are -inf, so none is possible"
        if bool(values.amax().isneginf())
        else f"the logit of code {column if codes is None else int(codes[row, column])} is {float(values[column])}"
    )
    raise NonFiniteLogits(
        f"span {tokens.span.name!r}, token {int(tokens.index[row])}: {what}; a denoiser gives finite logits, -inf for "
        "what cannot be"
    )
