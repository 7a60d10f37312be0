"""The transformer of MDLM (arXiv 2406.07524), Duo (2506.10892) and BD3-LM (2503.09573), names of weights as theirs.

    c = silu(MLP(frequencies of σ))      x ← x + g_a · Attention(m_a(norm x)),     x ← x + g_m · MLP(m_m(norm x))

m and g are linear in c. σ = -ln(share of visible tokens) for networks that are told it, 0 for others. Positions are
rotary over the whole head. With blocks a token attends to those of its own block and of the blocks before it, which is
how BD3-LM samples: what it says of a block supposes that the blocks before it are complete.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_FREQUENCIES, _LEAST_VISIBLE = 256, 1e-3


class MdlmDiT(nn.Module):
    """Embeddings (B, L, D) and the masked share (B,) -> states (B, L, D), logits by `output_layer.linear`."""

    def __init__(
        self, vocab_size: int, width: int, depth: int, heads: int, condition: int, block_size: int = 0,
        timed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(width, depth, heads, condition) < 1 or width % (2 * heads) or block_size < 0:
            raise ValueError(f"model: width {width}, depth {depth}, heads {heads}, block_size {block_size} do not fit")
        self.vocab_embed = nn.Module()
        self.vocab_embed.embedding = nn.Parameter(torch.empty(vocab_size, width))
        mlp = nn.Sequential(nn.Linear(_FREQUENCIES, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.sigma_map = nn.ModuleDict({"mlp": mlp})
        self.blocks = nn.ModuleList(_Block(width, heads, condition) for _ in range(depth))
        self.output_layer = _Last(width, vocab_size, condition)
        self.block_size, self.timed, self.head_width = block_size, timed, width // heads

    def forward(self, x: Tensor, masked: Tensor) -> Tensor:
        sigma = -(1 - masked).clamp(min=_LEAST_VISIBLE).log() if self.timed else torch.zeros_like(masked)
        half = _FREQUENCIES // 2
        angle = sigma[:, None] * torch.exp(torch.arange(half, device=x.device) * (-math.log(10_000) / half))
        condition = F.silu(self.sigma_map["mlp"](torch.cat([angle.cos(), angle.sin()], -1)))[:, None]
        position = torch.arange(x.shape[1], device=x.device)
        rate = 10_000.0 ** (-torch.arange(0, self.head_width, 2, device=x.device) / self.head_width)
        table = position[:, None] * rate
        allowed = None
        if self.block_size:
            block = position // self.block_size
            allowed = block[:, None] >= block
        for layer in self.blocks:
            x = layer(x, condition, table, allowed)
        return self.output_layer(x, condition)


class _Norm(nn.Module):
    """Layer norm with a gain and no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape) * self.weight


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.heads = _Norm(width), _Norm(width), heads
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.adaLN_modulation = nn.Linear(condition, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, table: Tensor, allowed: Tensor | None) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(condition).chunk(6, -1)
        qkv = self.attn_qkv(self.norm1(x) * (1 + scale_a) + shift_a)
        q, k, v = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=self.heads)
        out = F.scaled_dot_product_attention(_rotate(q, table), _rotate(k, table), v, attn_mask=allowed)
        x = x + gate_a * self.attn_out(rearrange(out, "b h l d -> b l (h d)"))
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m) + shift_m)


class _Last(nn.Module):
    def __init__(self, width: int, vocab_size: int, condition: int) -> None:
        super().__init__()
        self.norm_final = _Norm(width)
        self.linear = nn.Linear(width, vocab_size)
        self.adaLN_modulation = nn.Linear(condition, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, -1)
        return self.norm_final(x) * (1 + scale) + shift


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """Channels i and i + d/2 turn by the angles (L, d/2)."""
    first, second = x.chunk(2, -1)
    cos, sin = table.cos(), table.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
