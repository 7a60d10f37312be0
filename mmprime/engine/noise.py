"""Noise on visible digits: training states in which some of them are wrong.

    r ~ U(0, rate) an example;    y_n -> y_n + 1 + ⌊u (b_n - 1)⌋ mod b_n with chance r, u ~ U(0, 1)

so a replaced digit has any other value of its radix alike. A model that is to find the true value learns the posterior
p(y_n | ỹ), the digit's own value ỹ_n among what it knows: with one rate r and q the distribution by the rest of the
canvas, were that clean,

    p(y_n = ỹ_n | ỹ) = (1-r) q(ỹ_n) / ((1-r) q(ỹ_n) + r (1 - q(ỹ_n)) / (b_n - 1)),    increasing in q(ỹ_n)

Source: Han et al., "Infinity", arXiv 2412.04431 (bits flipped in training, the true ones predicted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Canvas


@dataclass(frozen=True)
class DigitNoise:
    """rate: the largest share of replaced digits; levels: digit levels that may be replaced, none for all.

    Raises ValueError on a rate outside (0, 1].
    """

    rate: float
    levels: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"a rate of noise lies in (0, 1], got {self.rate}")

    def check(self, canvas: Canvas) -> None:
        """Raises ValueError where a replaced digit may leave no code, or on a level that no token has."""
        for span in canvas.spans:
            codec = span.codec
            if codec.num_codes != codec.num_cells:
                raise ValueError(
                    f"a wrong digit may leave no code: span {span.name!r} has {codec.num_codes} codes among "
                    f"{codec.num_cells} combinations of digits; choose radices whose product is {codec.num_codes}, or "
                    "no noise"
                )
        for level in self.levels:
            if not 0 <= level < canvas.num_levels:
                raise ValueError(f"digit level {level} is none of 0 to {canvas.num_levels - 1}")

    def reaches(self, canvas: Canvas) -> Tensor:
        """(N,): the sub-tokens that may be replaced: of these levels, with another value to take."""
        chosen = canvas.mask(digits=list(self.levels) or None)
        return chosen & (_radix(canvas) > 1)

    def apply(self, canvas: Canvas, y: Tensor, where: Tensor, generator: torch.Generator | None) -> Tensor:
        """y (B, N) with some digits of `where` (B, N) replaced. Draws 2 N + 1 uniforms an example."""
        rate = self.rate * torch.rand(len(y), 1, generator=generator, dtype=torch.float64)
        chance, value = torch.rand(2, *y.shape, generator=generator, dtype=torch.float64).to(y.device)
        radix = _radix(canvas).to(y.device)
        other = (y + 1 + (value * (radix - 1)).long()) % radix
        return torch.where(where & (chance < rate.to(y.device)), other, y)


def _radix(canvas: Canvas) -> Tensor:
    """(N,) the radix of each sub-token."""
    return torch.cat([torch.tensor(span.codec.radices).repeat(span.num_tokens) for span in canvas.spans])
