"""Guidance by any score of codes: a denoiser around a denoiser and a scorer.

    p'(v | y) ∝ p(v | y) exp(λ_i s(v; y, i)),      v a code of token i

With the look-ahead value s(v; y, i) = log E[exp r(x) | y, x_i = v], and one sub-token revealed at a time, samples have
the distribution ∝ p(x) exp r(x); with s = log p(c | y, x_i = v) that is classifier guidance (Nisonoff et al., arXiv
2406.01572).
A score of the code alone is its own look-ahead where one token is masked; with more it tilts each draw, not the
joint distribution. Where only complete examples can be rated, see `steer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .denoiser import Condition, Denoiser, Wrapper
from .guidance import Scale, token_values
from .heads import Head


class Scorer(Protocol):
    """What is visible -> scores of codes, asked for chosen tokens only.

    Called with y (B, N) whenever the denoiser is, it returns (B, L, F) features of all tokens, F = `features` >= 0, in
    the denoiser's precision. `scores` then turns features (M, F) of tokens of a span into finite (M, C) in code order.
    """

    features: int

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor: ...

    def scores(self, features: Tensor, span: Span) -> Tensor: ...


class CodeScores:
    """The scorer that does not look: {"image": (C,)} a score for each code of a span, 0 in spans left out.

    Raises ValueError, when used, on a span the canvas lacks or another number of codes.
    """

    features = 0

    def __init__(self, table: Mapping[str, Tensor]) -> None:
        self.table = dict(table)

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        for name, scores in self.table.items():
            if scores.shape != (canvas.span(name).codec.num_codes,):
                count = canvas.span(name).codec.num_codes
                raise ValueError(f"scores of span {name!r} have shape {tuple(scores.shape)}, it has {count} codes")
        return torch.zeros(len(y), canvas.num_tokens, 0, device=y.device)

    def scores(self, features: Tensor, span: Span) -> Tensor:
        scores = self.table.get(span.name, torch.zeros(span.codec.num_codes))
        return scores.to(features.device).expand(len(features), -1)


class Tilted(Wrapper):
    """A denoiser tilted by a scorer. scale λ as in `Guidance`: a number, by span name, or (L,); of any sign.

    Classifier-free guidance goes around it: a score that is the same in both branches then acts once. Passes of the
    scorer are not counted as NFE. Raises ValueError on scales and scores that are not finite.
    """

    def __init__(self, denoiser: Denoiser, scorer: Scorer, scale: Scale = 1.0) -> None:
        super().__init__(denoiser)
        self.scorer, self.scale = scorer, scale

    def head(self, span: Span) -> Head:
        """One softmax over all codes. Raises ValueError where the inner denoiser has another head: a score is of a
        code."""
        head = self.denoiser.head(span)
        if head.name != "softmax":
            raise ValueError(
                f"span {span.name!r} has the head {head.name!r}, which draws digits; scores of codes need 'softmax'"
            )
        return head

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        hidden = self.denoiser(y, canvas, cond)
        features = self.scorer(y, canvas, cond).to(hidden)
        scale = token_values(self.scale, canvas, "scale").to(hidden).expand(len(y), -1)
        if not bool(scale.isfinite().all()):
            raise ValueError(f"the scale of a tilt must be finite, got {self.scale}")
        return torch.cat([hidden, features, scale[..., None]], -1)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return self._tilt(hidden, span)

    def code_logits(self, hidden: Tensor, span: Span, codes: Tensor) -> Tensor:
        return self._tilt(hidden, span, codes)

    def _tilt(self, hidden: Tensor, span: Span, codes: Tensor | None = None) -> Tensor:
        count, inner = self.scorer.features, self.denoiser
        hidden, features, scale = hidden.split([hidden.shape[-1] - count - 1, count, 1], -1)
        logits = inner.logits(hidden, span) if codes is None else inner.code_logits(hidden, span, codes)
        rows = scale[:, 0].nonzero()[:, 0]
        scores = self.scorer.scores(features[rows], span)
        if not bool(scores.isfinite().all()):
            raise ValueError(f"a score of span {span.name!r} is not finite; to forbid a code give it a score of -1e4")
        scores = scores if codes is None else scores.gather(1, codes[rows])
        return logits.index_add(0, rows, (scale[rows] * scores).to(logits))
