"""The clearest first: units ordered by the gap between their two likeliest values.

    score_i = p_(1) - p_(2)

Source: Kim et al., arXiv 2502.06768. It looks at distributions only: exact one unit at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Memory, Paced, View


@dataclass(frozen=True)
class Margin(Paced):
    """the largest gap between the two likeliest values first"""

    name: ClassVar[str] = "margin"

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        if probs.shape[-1] < 2:
            return probs[..., 0].prod(-1, keepdim=True)
        first, second = probs.topk(2, -1).values.unbind(-1)  # (m, U): the runner-up differs in one factor
        others = first[:, None].expand(-1, first.shape[1], -1).clone()
        others.diagonal(dim1=1, dim2=2).copy_(second)
        return (first.prod(-1) - others.prod(-1).amax(-1))[:, None]

    def score(self, view: View) -> Tensor:
        return view.feature[..., 0]
