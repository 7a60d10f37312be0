"""Training examples in memory: for each span a table of codes, perhaps class labels and captions.

Text is tokenised once (``corpus``) and codes are written in digits once (:meth:`Examples.packed`); a batch is then one
gather per span, with no Python loop over examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmprime.engine import Canvas, Span

from .rng import generator_for

_PACKED_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Alternatives:
    """All captions of n examples: those of example i are ``rows[first[i] : first[i] + count[i]]``, (L,) int32 each.

    tokens (m,) and captions: the tokens with the end, and the text, of each row.
    """

    rows: Tensor
    tokens: Tensor
    captions: list[str]
    first: Tensor
    count: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """The number of a row for each example, each of its captions equally likely, (n,)."""
        pick = (torch.rand(len(self.count), generator=generator, dtype=torch.float64) * self.count).long()
        return self.first + pick.minimum(self.count - 1)

    def at(self, chosen: Tensor) -> Alternatives:
        """Those of some examples."""
        return replace(self, first=self.first[chosen], count=self.count[chosen])


@dataclass(frozen=True)
class Examples:
    """n examples: ``codes[name]`` (n, L) int32 or digits (n, L, S), in one row (n, L·S) once :meth:`packed`;
    ``labels`` (n,) int64 or None; ``captions`` empty or n strings.

    ``text_tokens`` (n,): tokens of the text with its end, where padding follows; None: the text span holds no padding.
    Where an example has several captions, text and tokens are those of the first; ``alternatives`` are all.
    ``features`` (n, l, F): of a frozen network, one vector a token of the image, where a training is aligned to them.
    """

    codes: dict[str, Tensor]
    labels: Tensor | None = None
    captions: list[str] = field(default_factory=list)
    text_tokens: Tensor | None = None
    alternatives: Alternatives | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))

    def subset(self, count: int, seed: int) -> Examples:
        """At most ``count`` examples, drawn once by ``seed``."""
        chosen = torch.randperm(len(self), generator=generator_for("cpu", seed, "subset"))[:count]
        return self.at(chosen)

    def at(self, chosen: Tensor) -> Examples:
        """The examples of these numbers."""
        of_each = self.labels, self.text_tokens, self.features
        labels, tokens, features = (None if x is None else x[chosen] for x in of_each)
        captions = [self.captions[i] for i in chosen.tolist()] if self.captions else []
        alternatives = None if self.alternatives is None else self.alternatives.at(chosen)
        codes = {name: x[chosen] for name, x in self.codes.items()}
        return Examples(codes, labels, captions, tokens, alternatives, features)

    def sample(self, chosen: Tensor, generator: torch.Generator) -> Examples:
        """The examples of these numbers, each with one of its captions, drawn by ``generator``."""
        picked = self.at(chosen)
        if picked.alternatives is None:
            return picked
        several, rows = picked.alternatives, picked.alternatives.sample(generator)
        captions = [several.captions[row] for row in rows.tolist()]
        codes = {**picked.codes, "text": several.rows[rows]}
        return Examples(codes, picked.labels, captions, several.tokens[rows], several, picked.features)

    def first_captions(self, where: Tensor) -> Examples:
        """The same with each example's first caption where ``where`` (n,) says so."""
        if (several := self.alternatives) is None or self.text_tokens is None:
            return self
        text = torch.where(where[:, None], several.rows[several.first], self.codes["text"])
        tokens = torch.where(where, several.tokens[several.first], self.text_tokens)
        first = [several.captions[row] for row in several.first.tolist()]
        captions = [bare if keep else other for bare, other, keep in zip(first, self.captions, where.tolist())]
        return replace(self, codes={**self.codes, "text": text}, captions=captions, text_tokens=tokens)

    def packed(self, canvas: Canvas) -> Examples:
        """The same with the digits of each span in place of its codes. Raises ValueError on codes outside a codec."""
        codes = {span.name: _digits(self.codes[span.name], span) for span in canvas.spans}
        several = self.alternatives
        if several is not None:
            several = replace(several, rows=_digits(several.rows, canvas.span("text")))
        return replace(self, codes=codes, alternatives=several)

    def y(self, canvas: Canvas) -> Tensor:
        """(n, N) int64: the rows of packed examples."""
        return torch.cat([self.codes[span.name] for span in canvas.spans], 1).long()


def _digits(codes: Tensor, span: Span) -> Tensor:
    """Codes (n, L) or digits (n, L, S) -> (n, L·S), as narrow as the radices allow."""
    narrow = torch.int16 if max(span.codec.radices) <= 1 << 15 else torch.int32
    canvas = Canvas([span])
    parts = [canvas.pack({span.name: part}).to(narrow) for part in codes.split(_PACKED_AT_ONCE)]
    return torch.cat(parts)
