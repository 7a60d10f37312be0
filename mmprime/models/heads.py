"""The networks behind the heads: hidden states of tokens to logits.

    softmax    W r(h)                                                        (M, C)
    factored   A_j r(h)                                                      for each digit level j
    chain      A_j r(h) + B_j r(z + F(r(z))),  z = P r(h) + l_j + Σ_known E_i[y_i]

r is RMS normalisation, F a SwiGLU network of the head's own width. Last maps start at zero, so all values are alike.
With nothing known a chain can do what the factored head does, with other weights for each set of known digits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprime.engine import Codec, DigitQuery

from .layers import rms_norm

_STD = 0.3


class SoftmaxNet(nn.Module):
    """Hidden states of tokens (M, D) -> logits (M, C) in code order; all zero at first, so all codes are alike."""

    def __init__(self, width: int, codec: Codec) -> None:
        super().__init__()
        self.linear = _zero_linear(width, codec.num_codes)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(rms_norm(hidden))


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
