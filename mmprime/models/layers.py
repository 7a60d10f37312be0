"""The parts of a block: RMS norm, attention with rotary positions, MLP, adaLN-zero modulation.

    x ← x + g_a · Attention(m_a(norm x)),      x ← x + g_m · MLP(m_m(norm x)),      m(h) = h · (1 + scale) + shift

Without conditioning there is no m and no g. With it, (shift, scale, g) are a linear map, zero at first, of the
condition (Peebles & Xie, arXiv 2212.09748). SwiGLU: Shazeer, arXiv 2002.05202. QK norm: Dehghani et al.,
arXiv 2302.05442.
Norms have no gain of their own: the linear map behind each one already holds it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import attention
from .config import DiTConfig
from .rotary import rotate

EPS = 1e-6


class _RmsNorm(torch.autograd.Function):
    """y = x · r, r = (mean x² + ε)^(-1/2);  dx = r · (dy - y · mean(dy · y)).

    Keeps y and r alone. On a CPU a third of the time of the built-in backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = (norm.square() / x.shape[-1] + EPS).rsqrt()
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (dy,) = grads
        y, r = ctx.saved_tensors
        along = torch.linalg.vecdot(dy, y).unsqueeze(-1) / y.shape[-1]
        return torch.addcmul(dy, y, along, value=-1).mul_(r)


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean x² + ε) over the last axis."""
    return F.rms_norm(x, x.shape[-1:], eps=EPS) if x.is_cuda else _RmsNorm.apply(x)


class AttentionScope:
    """Which tokens leave a block and what they attend to. This one: all that came in, and all of them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the tokens that leave; keys and values of those they attend to."""
        return q, k, v

    def leaving(self, x: Tensor) -> Tensor:
        """Of (B, L, ...) the tokens that leave."""
        return x


ALL_TOKENS = AttentionScope()


class AttentionSubset(AttentionScope):
    """Only the tokens `at` (B, W) leave; they attend to all."""

    def __init__(self, at: Tensor) -> None:
        self.at = at

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.leaving(q), k, v

    def leaving(self, x: Tensor) -> Tensor:
        return take(x, self.at)


def take(x: Tensor, at: Tensor) -> Tensor:
    """x (B, L, ...), at (B, W) -> (B, W, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None], at]


def put(x: Tensor, at: Tensor, length: int) -> Tensor:
    """The inverse of `take`: x (B, W, D) at the positions `at` of (B, L, D), zero elsewhere."""
    return x.new_zeros(len(x), length, x.shape[-1]).scatter(1, at[..., None].expand_as(x), x)


def positions(wanted: Tensor) -> Tensor:
    """(B, L) bool -> (B, W): where the wanted tokens are, W the most of a row; its first fills up a shorter row."""
    count = wanted.sum(-1, keepdim=True)
    width = max(1, int(count.max()))
    at = (~wanted).byte().argsort(dim=-1, stable=True)[:, :width]
    return torch.where(torch.arange(width, device=at.device) < count, at, at[:, :1])


class SelfAttention(nn.Module):
    """(B, L, D) -> (B, L, D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.width // config.heads
        self.qk_norm = config.qk_norm
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens, (B, L, H, Dh) each."""
        heads = rearrange(self.qkv(x), "... (n d) -> ... n d", d=self.head_dim)
        qk, v = heads.split([2 * self.heads, self.heads], dim=-2)
        if self.qk_norm:
            qk = rms_norm(qk)
        q, k = rotate(qk, table).chunk(2, dim=-2)
        return q, k, v

    def forward(self, x: Tensor, table: Tensor, backend: str, scope: AttentionScope) -> Tensor:
        q, k, v = self.project(x, table)
        return self.out(rearrange(attention(*scope.attend(q, k, v), backend), "b l h d -> b l (h d)"))


class SwiGLU(nn.Module):
    """silu(x G) * (x U) projected back: (..., D) -> (..., D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        # two maps, not one cut in half: joining the halves' gradients costs a copy
        self.gate = nn.Linear(config.width, config.mlp_hidden, bias=False)
        self.up = nn.Linear(config.width, config.mlp_hidden, bias=False)
        self.out = nn.Linear(config.mlp_hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(x)) * self.up(x))


class Gelu(nn.Module):
    """gelu(x U) projected back: (..., D) -> (..., D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.mlp_hidden, bias=False)
        self.out = nn.Linear(config.mlp_hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.up(x)))


class Modulation(nn.Module):
    """A condition (B, 1, D) -> `count` tensors of that shape, all zero at first."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(condition)).chunk(self.count, dim=-1)


class Block(nn.Module):
    """One block of the trunk: (B, L, D) -> (B, L, D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.mlp: nn.Module = SwiGLU(config) if config.mlp == "swiglu" else Gelu(config)
        self.modulation = Modulation(config.width, 6) if config.is_modulated else None
        self.dropout = nn.Dropout(config.dropout)
        self._init_weights(config)

    def _init_weights(self, config: DiTConfig) -> None:
        for name, weight in [*self.attention.named_parameters(), *self.mlp.named_parameters()]:
            std = weight.shape[1] ** -0.5
            if name.startswith("out") and not config.is_modulated:
                std /= math.sqrt(2 * config.depth)
            nn.init.normal_(weight, std=std)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        condition: Tensor | None,
        backend: str = "auto",
        scope: AttentionScope = ALL_TOKENS,
    ) -> Tensor:
        """table: rotary, condition: (B, 1, D) or None."""
        stay = scope.leaving(x)
        if self.modulation is None or condition is None:
            x = stay + self.dropout(self.attention(rms_norm(x), table, backend, scope))
            return x + self.dropout(self.mlp(rms_norm(x)))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)
        h = self.attention(modulate(rms_norm(x), shift_a, scale_a), table, backend, scope)
        x = stay + gate_a * self.dropout(h)
        return x + gate_m * self.dropout(self.mlp(modulate(rms_norm(x), shift_m, scale_m)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift."""
    return torch.addcmul(x + shift, x, scale)
