"""Soft targets for ordinal digits: a training loss whose target also gives mass to the neighbours of the true value.

    q(v | y) = exp(-(v - y)² / 2σ²) / Σ_u exp(-(u - y)² / 2σ²),    u, v in {0, ..., b - 1}
    loss     = -Σ_v q(v | y) log p(v)    in place of -log p(y)

for each masked digit, in a context of true values as ever. The optimum of p is the posterior smoothed by q, so a model
so trained draws neighbours too often; bounds and validation score true values. σ -> 0 is the hard loss; of a bit it is
label smoothing by 1 / (1 + exp(1 / 2σ²)).

Source: SNCE, arXiv 2603.15150 (target mass by proximity in the code book; here of the digits of finite-scalar levels,
bits, principal components or pixels, whose values are ordered).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from .canvas import Canvas, Span
from .denoiser import Denoiser, Wrapper
from .heads import ChainHead, Head


class SoftTargets(Wrapper):
    """A denoiser for training, whose heads take -log p of a reveal against soft targets. sigma: σ of some spans, in
    steps of a digit."""

    def __init__(self, denoiser: Denoiser, sigma: Mapping[str, float]) -> None:
        super().__init__(denoiser)
        self.sigma = sigma

    def check(self, canvas: Canvas) -> None:
        """Raises ValueError on a span that there is not, a σ that is none, and a head that draws whole codes."""
        for name, sigma in self.sigma.items():
            if not 0 < sigma < math.inf:
                raise ValueError(f"σ of soft targets is a number > 0, got {sigma} for span {name!r}")
            head = self.denoiser.head(canvas.span(name))
            if not isinstance(head, ChainHead):
                raise ValueError(
                    f"span {name!r}: the head {head.name!r} has one distribution over codes, soft targets are for the "
                    "heads 'factored' and 'chain', which have one over the values of a digit"
                )

    def head(self, span: Span) -> Head:
        head, sigma = self.denoiser.head(span), self.sigma.get(span.name)
        return replace(head, sigma=sigma) if sigma and isinstance(head, ChainHead) else head
