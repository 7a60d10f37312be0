"""The softmax head: one distribution over all C codes of a token.

For a token with joint logits g over the grid [b_1, ..., b_S] and a partly visible row y of digits,

    p(cell | y) = softmax of g over the cells that agree with y                 `log_posterior`
    log p(y_after | y) = logsumexp of log p(cell | y) over the cells that agree with y_after too     `log_mass`

Agreement with y is a sum of one small vector per axis (0 or -inf), so no (tokens, codes, digits) tensor is built.
"""

from __future__ import annotations

import math
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from ..canvas import Span
from ..codec import MASK_ID
from .base import Head, Logits, NonFiniteLogits, Request, SampledDigits, Tokens, UnitDistribution, sample_from

MAX_CODES = 1 << 26


class SoftmaxHead(Head):
    """One softmax over all codes: nothing is lost inside a token, at a cost of O(C)."""

    name: ClassVar[str] = "softmax"

    def check(self, span: Span) -> None:
        codec = span.codec
        if codec.num_cells > MAX_CODES:
            raise ValueError(
                f"span {span.name!r}: one softmax over {codec.num_codes} codes takes {4 * codec.num_codes} bytes a "
                "token; "
                "use the head 'factored' or 'chain'"
            )

    def grid(self, network: Logits, tokens: Tokens) -> Tensor:
        """Joint logits over the digit grid of M tokens (M, b_1, ..., b_S), float32 or float64.

        A logit of -inf is a code that is impossible. Raises NonFiniteLogits.
        """
        logits = network.logits(tokens.hidden, tokens.span)
        if logits.dtype != torch.float64:
            logits = logits.float()
        top = logits.amax(-1)  # NaN if any is
        if not bool(top.isfinite().all()):
            _refuse(logits, top, tokens)
        return tokens.span.codec.to_grid(logits)

    def nats(self, network: Logits, tokens: Tokens, aim: Tensor, known: Tensor | None = None) -> Tensor:
        """Digits of a token are revealed jointly, so `known` changes nothing."""
        posterior = log_posterior(self.grid(network, tokens), tokens.visible)
        same = (aim == tokens.visible).all(-1)  # reveals nothing
        return torch.stack([-log_mass(posterior, target) for target in aim]).masked_fill(same, 0.0)

    def sample(self, network: Logits, tokens: Tokens, request: Request) -> SampledDigits:
        """Whole codes are drawn, also where some digits are asked for: part of an exact draw is a draw of the part.

        The temperature of a token is that of the first digit asked for; top_p applies to whole codes.
        """
        grid, visible, first = self.grid(network, tokens), tokens.visible, request.first
        logits = constrain(grid, visible).flatten(1)
        never = logits.amax(-1).isneginf()
        if bool(never.any()):
            if request.strict:
                raise ValueError(f"no code agrees with the visible digits {visible[never][0].tolist()}")
            logits = logits.masked_fill(never[:, None], 0.0)
        heat = request.temperature
        heat = heat.gather(1, first[:, None])[:, 0] if isinstance(heat, Tensor) else heat
        cell, confidence, entropy = sample_from(logits, request.u[:, 0], heat, request.top_p)
        digits = unravel(cell, tokens.span.codec.radices).masked_fill(never[:, None], MASK_ID)
        confidence, entropy = (each[:, None].expand(digits.shape) for each in (confidence, entropy))
        if not request.unit:
            return SampledDigits(digits, confidence, entropy)
        if request.unit == "each":
            return SampledDigits(digits, confidence, entropy, self._each(grid, tokens, request, digits))
        unmasked = visible if request.again is None else visible.masked_fill(request.again, MASK_ID)
        probs, value = unit_probs(log_posterior(grid, unmasked), first, cell, digits, request.unit)
        return SampledDigits(digits, confidence, entropy, UnitDistribution(probs[:, None], value[:, None]))

    def as_if_masked(self, network: Logits, tokens: Tokens, asked: Tensor) -> Tensor:
        """The conditional of a digit in the distribution of codes."""
        return _conditionals(self.grid(network, tokens), tokens.visible, asked)

    def _each(self, grid: Tensor, tokens: Tokens, request: Request, digits: Tensor) -> UnitDistribution:
        """Marginals of the masked digits given the visible ones; conditionals of those to be described again."""
        shape = *digits.shape, max(tokens.span.codec.radices)
        probs = torch.zeros(shape, dtype=torch.float64, device=digits.device)
        posterior = log_posterior(grid, tokens.visible).exp()
        for level, radix in enumerate(tokens.span.codec.radices):
            probs[:, level, :radix] = _margin(posterior, level)
        if request.again is not None:
            probs[request.again] = _conditionals(grid, tokens.visible, request.again).double().exp()
        return UnitDistribution(probs, digits.clamp(min=0))

    def size(self, span: Span) -> int:
        return span.codec.num_cells

    def num_uniforms(self, span: Span) -> int:
        return 1

    def unit_shape(self, span: Span, unit: str) -> tuple[int, int]:
        return 1, max(span.codec.radices) if unit == "digit" else span.codec.num_cells


def _refuse(logits: Tensor, top: Tensor, tokens: Tokens) -> NoReturn:
    row = int((~top.isfinite()).nonzero()[0])
    values = logits[row].detach()
    code = int((values.isnan() | values.isposinf()).long().argmax())
    what = (
        f"the logits of all {len(values)} codes are -inf, so none is possible"
        if bool(top[row].isneginf())
        else f"the logit of code {code} is {float(values[code])}"
    )
    raise NonFiniteLogits(
        f"span {tokens.span.name!r}, token {int(tokens.index[row])}: {what}; a denoiser gives finite logits, -inf for "
        "what cannot be"
    )


def constrain(grid: Tensor, y: Tensor) -> Tensor:
    """grid (M, b_1, ..., b_S) with -inf in every cell that contradicts the visible digits y (M, S)."""
    for axis, radix in enumerate(grid.shape[1:]):
        digit = y[:, axis]
        if grid.is_cpu and not bool((digit >= 0).any()):  # nothing on this axis is visible; a GPU had to be waited for
            continue
        value = torch.arange(radix, device=grid.device)
        clash = (digit[:, None] >= 0) & (digit[:, None] != value)
        shape = [len(grid)] + [1] * (grid.ndim - 1)
        shape[axis + 1] = radix
        bias = torch.zeros(clash.shape, dtype=grid.dtype, device=grid.device).masked_fill(clash, -math.inf)
        grid = grid + bias.view(shape)
    return grid


def log_posterior(grid: Tensor, y: Tensor) -> Tensor:
    """log p(cell | visible digits y): (M, b_1, ..., b_S), (M, S) -> (M, b_1, ..., b_S).

    -inf everywhere where no cell of finite logits agrees with y: what is visible is impossible, and all that follows.
    """
    cells = constrain(grid, y).flatten(1)
    posterior = torch.log_softmax(cells, -1)
    if not grid.is_cpu or bool(posterior[:, 0].isnan().any()):
        never = cells.amax(-1, keepdim=True).isneginf()
        posterior = torch.log_softmax(cells.masked_fill(never, 0.0), -1).masked_fill(never, -math.inf)
    return posterior.view(grid.shape)


def log_mass(grid: Tensor, y: Tensor) -> Tensor:
    """log of the mass of the cells that agree with y: (M, b_1, ..., b_S), (M, S) -> (M,)."""
    if bool((y >= 0).all()):  # complete rows name one cell each
        cell = torch.zeros_like(y[:, 0])
        for axis, radix in enumerate(grid.shape[1:]):
            cell = cell * radix + y[:, axis]
        return grid.flatten(1).gather(1, cell[:, None])[:, 0]
    cells = constrain(grid, y).flatten(1)
    mass = torch.logsumexp(cells, -1)
    never = mass.isneginf()
    if not grid.is_cpu or bool(never.any()):  # its gradient would be NaN
        mass = torch.logsumexp(cells.masked_fill(never[:, None], 0.0), -1).masked_fill(never, -math.inf)
    return mass


def unravel(cell: Tensor, radices: tuple[int, ...]) -> Tensor:
    """Flat grid index (M,) -> digits (M, S)."""
    digits = []
    for radix in reversed(radices):
        digits.append(cell % radix)
        cell = cell // radix
    return torch.stack(digits[::-1], -1)


def unit_probs(posterior: Tensor, first: Tensor, cell: Tensor, digits: Tensor, unit: str) -> tuple[Tensor, Tensor]:
    """log p over grids (M, b_1, ..., b_S) -> probabilities (M, K) float64 of each token's unit, value drawn (M,).

    Unit "token": over whole cells. Unit "digit": of the digit `first` (M,), padded with zeros to the largest base.
    """
    joint = posterior.exp()
    if unit == "token":
        return joint.flatten(1).double(), cell
    radices = posterior.shape[1:]
    probs = joint.new_zeros(len(joint), max(radices), dtype=torch.float64)
    for axis, radix in enumerate(radices):
        rows = (first == axis).nonzero()[:, 0]
        if len(rows):
            probs[rows, :radix] = _margin(joint[rows], axis)
    return probs, digits.gather(1, first[:, None])[:, 0]


def _margin(joint: Tensor, level: int) -> Tensor:
    """Probabilities (M, b_1, ..., b_S) -> (M, b) float64 of one level's values."""
    others = [dim for dim in range(1, joint.ndim) if dim != level + 1]
    return joint.sum(others, dtype=torch.float64) if others else joint.double()


def _conditionals(grid: Tensor, visible: Tensor, asked: Tensor) -> Tensor:
    """Grids (M, b_1, ..., b_S) -> log p (R, max b) of each of the R digits `asked` (M, S), the others as visible."""
    token, level = asked.nonzero(as_tuple=True)
    out = grid.new_full((len(token), max(grid.shape[1:])), -math.inf)
    for axis, radix in enumerate(grid.shape[1:]):
        rows = (level == axis).nonzero()[:, 0]
        if not len(rows):
            continue
        alone = visible[token[rows]].index_fill(1, torch.tensor([axis], device=visible.device), MASK_ID)
        part = log_posterior(grid[token[rows]], alone)
        others = [dim for dim in range(1, part.ndim) if dim != axis + 1]
        part = part.logsumexp(others) if others else part
        out = out.index_put((rows[:, None], torch.arange(radix, device=rows.device)), part)
    return out
