"""The networks behind the heads: hidden states of tokens to logits.

    softmax    W r(h)                                                        (M, C)
    factored   A_j r(h)                                                      for each digit level j
    chain      A_j r(h) + B_j r(z + F(r(z))),  z = P r(h) + l_j + Σ_known E_i[y_i]

r is RMS normalisation, F a SwiGLU network of the head's own width. Last maps start at zero, so all values are alike.
With nothing known a chain can do what the factored head does, with other weights for each set of known digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprime.engine import Codec, DigitQuery
from mmprime.engine.denoiser import chunks

from .layers import rms_norm

_STD = 0.3
_ROWS_AT_ONCE = 1 << 22  # numbers of gathered rows
_NUMBERS_AT_ONCE = 1 << 24  # logits


class SoftmaxNet(nn.Module):
    """Hidden states of tokens (M, D) -> logits (M, C) in code order, or (M, K) of the codes (M, K) asked for; all zero
    at first, so all codes are alike."""

    def __init__(self, width: int, codec: Codec) -> None:
        super().__init__()
        self.linear = _zero_linear(width, codec.num_codes)

    def forward(self, hidden: Tensor, codes: Tensor | None = None, true: Tensor | None = None) -> Tensor:
        """true (M,): in place of logits the nats (M,) of these codes."""
        state, linear = rms_norm(hidden), self.linear
        if true is not None:
            kind = state.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else linear.weight.dtype
            weights = (state.to(dtype), linear.weight.to(dtype), linear.bias.to(dtype))
            return cast(Tensor, _Nats.apply(*weights, true))
        return linear(state) if codes is None else cast(Tensor, _Chosen.apply(state, linear.weight, linear.bias, codes))


class _Nats(torch.autograd.Function):
    """state (M, D), weight (C, D), bias (C,), true (M,) -> logsumexp_x g_x - g_true (M,) of the logits g = W r + b.

    The gradient, softmax(g) less one at the true code, takes the place of the logits, a few tokens at a time, so that
    one tensor (M, C) is kept and none is computed twice.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, weight: Tensor, bias: Tensor, true: Tensor) -> Tensor:
        exact = torch.promote_types(state.dtype, torch.float32)
        nats, gradient = state.new_zeros(len(state), dtype=exact), state.new_empty(len(state), len(weight))
        for part in chunks(len(state), len(weight), _NUMBERS_AT_ONCE):
            kept, code = gradient[part], true[part, None]
            logits = torch.addmm(bias, state[part], weight.T, out=kept).to(exact)  # the same memory but for bfloat16
            total = torch.logsumexp(logits, -1, keepdim=True)
            nats[part] = (total - logits.gather(1, code))[:, 0]
            logits.sub_(total).exp_().scatter_add_(1, code, torch.full_like(total, -1.0))
            if logits is not kept:
                kept.copy_(logits)
        ctx.save_for_backward(state, weight, gradient)
        return nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        state, weight, gradient = ctx.saved_tensors
        grad = grad.to(state)[:, None]
        return gradient @ weight * grad, gradient.T @ (state * grad), gradient.T @ grad[:, 0], None


class _Chosen(torch.autograd.Function):
    """state (M, D), weight (C, D), bias (C,), codes (M, K) -> (M, K): columns of the linear map, one set for each row.

    Rows of the weight are gathered some at a time, and anew in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, weight: Tensor, bias: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(state, weight, bias, codes)
        out = [
            torch.bmm(_rows(weight, codes[part]), state[part].to(weight)[:, :, None]) for part in _parts(codes, state)
        ]
        return torch.cat(out)[:, :, 0] + bias[codes] if out else bias[codes]  # of no row

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        state, weight, bias, codes = ctx.saved_tensors
        grad, to_weight, to_state = grad.to(weight), torch.zeros_like(weight), []
        for part in _parts(codes, state):
            to_state.append(torch.bmm(grad[part, None], _rows(weight, codes[part]))[:, 0])
            outer = grad[part, :, None] * state[part, None].to(weight)
            to_weight.index_add_(0, codes[part].flatten(), outer.flatten(0, 1))
        to_bias = torch.zeros_like(bias).index_add_(0, codes.flatten(), grad.flatten().to(bias))
        to_state = to_state or [state]
        return torch.cat(to_state).to(state), to_weight, to_bias, None


def _parts(codes: Tensor, state: Tensor) -> Iterator[slice]:
    return chunks(len(codes), codes.shape[1] * state.shape[1], _ROWS_AT_ONCE)


def _rows(weight: Tensor, codes: Tensor) -> Tensor:
    return weight.index_select(0, codes.flatten()).view(*codes.shape, -1)


class FactoredNet(nn.Module):
    """Hidden states (M, D) -> logits (R, max b) of the digits asked for."""

    radix: Tensor
    cell: Tensor

    def __init__(self, width: int, codec: Codec) -> None:
        super().__init__()
        radix = torch.tensor(codec.radices, device="cpu")
        start = radix.cumsum(0) - radix
        values = torch.arange(int(radix.max()), device="cpu")
        self.register_buffer("radix", radix, persistent=False)
        self.register_buffer("cell", torch.minimum(start[:, None] + values, start[:, None] + radix[:, None] - 1), False)
        self.linear = _zero_linear(width, sum(codec.radices))
        self.mixed = len(set(codec.radices)) > 1

    def forward(self, hidden: Tensor, query: DigitQuery) -> Tensor:
        return self.beyond(self.apart(rms_norm(hidden), query), query.level)

    def apart(self, state: Tensor, query: DigitQuery) -> Tensor:
        """A_j r(h) of the digits asked for: (R, max b)."""
        levels, base = self.cell.shape
        logits = self.linear(state)
        if self.mixed:
            logits = logits.index_select(1, self.cell.flatten())
        return logits.view(-1, base).index_select(0, query.token * levels + query.level)

    def beyond(self, logits: Tensor, level: Tensor) -> Tensor:
        """(R, max b) with -inf from the radix of a level on."""
        if not self.mixed:
            return logits
        values = torch.arange(logits.shape[1], device=logits.device)
        return logits.masked_fill(values >= self.radix[level, None], -torch.inf)


class ChainNet(FactoredNet):
    """The same, each digit also by the digits of its token that are known."""

    offset: Tensor

    def __init__(self, width: int, codec: Codec, inner: int) -> None:
        super().__init__(width, codec)
        levels, base = len(codec.radices), max(codec.radices)
        self.register_buffer("offset", (self.radix + 1).cumsum(0) - self.radix - 1, persistent=False)
        self.state = nn.Linear(width, inner, bias=False)
        self.level = nn.Embedding(levels, inner)
        self.known = nn.Embedding(sum(codec.radices) + levels, inner)  # the last row of a level: not known
        self.gate, self.up = nn.Linear(inner, 2 * inner, bias=False), nn.Linear(inner, 2 * inner, bias=False)
        self.down = nn.Linear(2 * inner, inner, bias=False)
        self.out = nn.Parameter(torch.zeros(levels, inner, base))
        nn.init.normal_(self.state.weight, std=width**-0.5)
        nn.init.normal_(self.level.weight, std=_STD)
        nn.init.normal_(self.known.weight, std=_STD * levels**-0.5)
        for linear in (self.gate, self.up, self.down):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def forward(self, hidden: Tensor, query: DigitQuery) -> Tensor:
        state = rms_norm(hidden)
        rows = torch.where(query.known < 0, self.radix, query.known) + self.offset
        z = self.state(state).index_select(0, query.token) + self.level(query.level)
        z = z + F.embedding_bag(rows, self.known.weight, mode="sum")
        r = rms_norm(z)
        z = z + self.down(F.silu(self.gate(r)) * self.up(r))
        return self.beyond(self.apart(state, query) + self._by_level(rms_norm(z), query.level), query.level)

    def _by_level(self, z: Tensor, level: Tensor) -> Tensor:
        """z (R, d) times the matrix of its level -> (R, max b)."""
        order = level.argsort(stable=True)
        counts = level.bincount(minlength=len(self.out)).tolist()
        sorted_ = z.index_select(0, order).split(counts)
        parts = [part @ matrix.to(part.dtype) for part, matrix in zip(sorted_, self.out)]
        return torch.cat(parts).index_select(0, order.argsort())


def _zero_linear(width: int, count: int) -> nn.Linear:
    linear = nn.Linear(width, count)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
