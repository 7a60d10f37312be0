"""The most certain laws first.

    score_i = -H(p_i)

It looks at laws only: exact one unit at a time.
"""

from __future__ import annotations

from torch import Tensor

from ..policy import Look, Memory, Paced, entropy


class Entropy(Paced):
    """Options as for `Paced`."""

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        return -entropy(law)[:, None]

    def score(self, look: Look) -> Tensor:
        return look.feature[..., 0]
