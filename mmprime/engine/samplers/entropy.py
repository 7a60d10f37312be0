"""The most certain first: units ordered by entropy, the lowest first.

    score_i = -H_i

It looks at distributions only: exact one unit at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Memory, Paced, View, entropy_nats


@dataclass(frozen=True)
class Entropy(Paced):
    """the lowest entropy first"""

    name: ClassVar[str] = "entropy"

    def describe(self, probs: Tensor, value: Tensor, index: Tensor, memory: Memory) -> Tensor:
        return -entropy_nats(probs)

    def score(self, view: View) -> Tensor:
        return view.feature[..., 0]
