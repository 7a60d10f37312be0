"""The clearest first: units ordered by the gap between their two likeliest values.

    score_i = p_(1) - p_(2)

Source: Kim et al., arXiv 2502.06768. It looks at laws only: exact one unit at a time.
"""

from __future__ import annotations

from torch import Tensor

from ..policy import Look, Memory, Paced


class Margin(Paced):
    """Options as for `Paced`."""

    def describe(self, law: Tensor, value: Tensor, place: Tensor, memory: Memory) -> Tensor:
        if law.shape[-1] < 2:
            return law
        two = law.topk(2, -1).values
        return two[:, :1] - two[:, 1:]

    def score(self, look: Look) -> Tensor:
        return look.feature[..., 0]
