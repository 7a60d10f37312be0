"""The factored head: a softmax for each digit, all independent given the trunk's state.

    log p(y_R | h, y_V) = Σ_{j in R} log p_j(y_j | h)

O(Σ b_j) for a token of any size. What a step reveals of one token costs its total correlation, Σ_j H(y_j) - H(y_R);
digits that are masked apart pay it only where they fall into one step.

Source: MaskBit, arXiv 2409.16211 (groups of bits, each with a softmax of its own).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .chain import ChainHead


@dataclass(frozen=True)
class FactoredHead(ChainHead):
    """A softmax for each digit: a chain of one round, whose network is told nothing that the trunk does not know."""

    rounds: int = field(default=1, init=False)
    name: ClassVar[str] = "factored"
    chains: ClassVar[bool] = False
    apart: ClassVar[bool] = True
