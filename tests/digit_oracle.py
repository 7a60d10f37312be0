"""A second opinion on the heads that draw digits: tables of conditionals, and their likelihoods in plain Python.

The conditionals are random numbers for every state of the canvas and every set of known digits of the token, so no two
of them agree with one joint distribution: what holds here is not excused by an identity.
"""

from __future__ import annotations

import itertools
import math

import oracle
import torch
from torch import Tensor

from mmprime.engine import MASK_ID, BaseDenoiser, Canvas, Codec, DigitQuery, Head, Span


def product_world(length: int = 2, radices: tuple[int, ...] = (2, 3), seed: int = 3) -> oracle.World:
    """Tokens of all combinations of digits: N = length · S."""
    codec = Codec.mixed_radix(radices)
    world = oracle.make_world([Span("image", length, codec)], seed)
    return oracle.World(Canvas([Span("image", length, Codec.product(radices))]), world.codes, world.y, world.p)


class DigitTable(BaseDenoiser):
    """Logits by state, token, level and known digits of the token: table (states, L, S, known, max b)."""

    def __init__(self, canvas: Canvas, head: Head, seed: int = 7, spread: float = 1.2) -> None:
        (span,) = canvas.spans
        self.codec, self.kind, self.radix = span.codec, head, oracle.radices_of(canvas)
        states, known = (math.prod(b + 1 for b in radices) for radices in (self.radix, self.codec.radices))
        shape = states, span.num_tokens, self.codec.num_digits, known, max(self.codec.radices)
        table = spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for level, b in enumerate(self.codec.radices):
            table[:, :, level, :, b:] = -torch.inf
        self.table = table[:, :, :, :1].expand_as(table) if head.name == "factored" else table
        self.asked = 0

    def __call__(self, y: Tensor, canvas: Canvas, cond: object = None) -> Tensor:
        return self.table[oracle.state_number(y, self.radix)].flatten(2)

    def head(self, span: Span) -> Head:
        return self.kind

    def digit_logits(self, hidden: Tensor, span: Span, query: DigitQuery) -> Tensor:
        self.asked += len(query.token)
        number = oracle.state_number(query.known, self.codec.radices)
        return hidden.view(len(hidden), *self.table.shape[2:])[query.token, query.level, number]

    def chances(self, y: tuple[int, ...], token: int, known: tuple[int, ...], level: int, power: float = 1.0) -> Tensor:
        """p(value) of one digit of a token at the state y, given known digits of it."""
        state = oracle.state_number(torch.tensor([y]), self.radix)[0]
        number = oracle.state_number(torch.tensor([known]), self.codec.radices)[0]
        return (power * self.table[state, token, level, number]).softmax(0)

    def rounds(self) -> list[int]:
        """The round of each level, written out."""
        levels = self.codec.num_digits
        count = {"factored": 1, "chain": getattr(self.kind, "rounds", None) or levels}[self.kind.name]
        return [level * min(count, levels) // levels for level in range(levels)]


def code_chances(
    model: DigitTable, y: tuple[int, ...], token: int, power: float = 1.0, again: bool = False
) -> list[float]:
    """p(code | y) of a token whose masked digits are all revealed at once, codes in mixed radix. again: as if it were
    masked, at the state y that has its value."""
    levels = model.codec.num_digits
    own = (-1,) * levels if again else y[token * levels : (token + 1) * levels]
    out = []
    for digits in itertools.product(*(range(b) for b in model.codec.radices)):
        if any(have >= 0 and have != digit for have, digit in zip(own, digits)):
            out.append(0.0)
            continue
        chance = 1.0
        for level in range(levels):
            if own[level] < 0:
                known = _known(model, own, digits, level, set(range(levels)))
                chance *= float(model.chances(y, token, known, level, power)[digits[level]])
        out.append(chance)
    return out


def digit_chance(model: DigitTable, y: tuple[int, ...], n: int, code: tuple[int, ...]) -> float:
    """p of one digit of a token: of its value in y, the token's other digits known as they are; or, where it is masked,
    of its value in the code that is drawn for the token."""
    levels = model.codec.num_digits
    token, level = divmod(n, levels)
    own = y[token * levels : (token + 1) * levels]
    if own[level] >= 0:
        known = tuple(MASK_ID if j == level else digit for j, digit in enumerate(own))
        return float(model.chances(y, token, known, level)[own[level]])
    known = _known(model, own, code, level, set(range(levels)))
    return float(model.chances(y, token, known, level)[code[level]])


def _known(
    model: DigitTable, own: tuple[int, ...], aim: tuple[int, ...], level: int, revealed: set[int]
) -> tuple[int, ...]:
    """What digit `level` may depend on: what is visible, and what an earlier round of this step reveals."""
    rounds = model.rounds()
    return tuple(
        have if have >= 0 else (digit if j in revealed and rounds[j] < rounds[level] else -1)
        for j, (have, digit) in enumerate(zip(own, aim))
    )


def log_reveal(model: DigitTable, canvas: Canvas, y0: Tensor, visible: frozenset, revealed: frozenset) -> Tensor:
    """log p(the digits at `revealed` | the digits at `visible`) of rows y0 (B, N), digit by digit: (B,)."""
    levels, total = model.codec.num_digits, []
    for row in y0.tolist():
        y = tuple(d if n in visible else -1 for n, d in enumerate(row))
        nats = 0.0
        for n in sorted(revealed):
            token, level = divmod(n, levels)
            here = slice(token * levels, (token + 1) * levels)
            mine = {m - token * levels for m in revealed if m // levels == token}
            known = _known(model, y[here], tuple(row[here]), level, mine)
            nats += math.log(float(model.chances(y, token, known, level)[row[n]]))
        total.append(nats)
    return torch.tensor(total, dtype=torch.float64)
