"""Nested masking: the digits of a token come in order, coarse before fine (hierarchical diffusion).

    key = the u of a token's free digits, sorted;   next: a token's first masked digit, at the rate m · w(t) of its m
    masked digits (the first of m sorted times);   one step: the first r ~ Binomial(m, c) of them

Source: HDLM, arXiv 2510.08632, is the two-level case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Canvas
from .base import Masking, Reveals


@dataclass(frozen=True)
class NestedMasking(Masking):
    """The digits of a token are revealed coarse before fine."""

    name: ClassVar[str] = "nested"
    seed: ClassVar[int] = 1

    def _keys(self, canvas: Canvas, u: Tensor, free: Tensor) -> Tensor:
        """The k-th free digit of each token gets the k-th smallest u among that token's free digits."""
        token = 2 * canvas.token_of.to(u.device, u.dtype)
        by_value = torch.argsort(token + torch.where(free, u, 1.5), -1)
        by_level = torch.argsort(token + torch.where(free, 0.0, 1.5), dim=-1, stable=True)
        return torch.zeros_like(u).scatter(-1, by_level, u.gather(-1, by_value))

    def next_reveals(self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, rate: Tensor) -> Reveals:
        of_token = canvas.at_level(rate, 0)
        chosen = canvas.first_in_token(masked)
        count = torch.zeros_like(of_token).index_add_(1, canvas.token_of.to(y0.device), masked.to(of_token.dtype))
        return Reveals(torch.where(chosen, y0, y_t)[None], (count * of_token)[None])

    def step_reveals(
        self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, chance: Tensor, apart: bool = False
    ) -> Reveals:
        """The first r = 1..S masked digits of a token, with the chance of r in Binomial(m, c)."""
        masked = masked & (chance > 0)
        levels = canvas.num_levels
        of_token = canvas.at_level(chance, 0)
        count = torch.zeros_like(of_token, dtype=torch.int64)
        count.index_add_(1, canvas.token_of.to(y0.device), masked.long())
        running = masked.long().cumsum(-1)
        before = (running - masked.long())[:, canvas.token_start.to(y0.device)]
        ways = torch.tensor([[math.comb(m, r) for m in range(levels + 1)] for r in range(levels + 1)], device=y0.device)
        after, weight = [], []
        for taken in range(1, levels + 1):
            after.append(torch.where(masked & (running - before <= taken), y0, y_t))
            rest = (count - taken).clamp(min=0)
            weight.append(ways[taken][count] * of_token**taken * (1 - of_token) ** rest)
        return Reveals(torch.stack(after), torch.stack(weight))

    def settled(self, canvas: Canvas, rank: list[int], free: Tensor, in_time: bool) -> list[int]:
        """The ranks of each token's free digits, sorted."""
        for token in range(canvas.num_tokens):
            digits = [n for n in range(len(rank)) if free[n] and int(canvas.token_of[n]) == token]
            for n, r in zip(digits, sorted(rank[n] for n in digits)):
                rank[n] = r
        return rank
