"""The canvas: how one example lies on a flat row of N sub-tokens.

A canvas is a list of spans (a modality, its length or grid, its codec). The engine sees the flat row; a span is
viewed as (B, L, S). Order on the row: spans in order, tokens in raster order, digits in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import MASK_ID, Codec

_MAX_SUBTOKENS = 1 << 24


@dataclass(frozen=True)
class Span:
    """A run of tokens of one modality: `length` is a count, or (height, width) for a grid."""

    name: str
    length: int | tuple[int, int]
    codec: Codec

    def __post_init__(self) -> None:
        pair = isinstance(self.length, list | tuple)
        sides = tuple(self.length) if isinstance(self.length, list | tuple) else (self.length,)
        if len(sides) != 1 + pair or any(type(side) is not int or side < 1 for side in sides):
            raise ValueError(f"span {self.name!r}: length {self.length!r} must be a positive count or (height, width)")

    @property
    def grid(self) -> tuple[int, int] | None:
        """(height, width), or None for a sequence."""
        return None if isinstance(self.length, int) else (self.length[0], self.length[1])

    @property
    def num_tokens(self) -> int:
        return self.length if isinstance(self.length, int) else math.prod(self.length)

    @property
    def num_subtokens(self) -> int:
        return self.num_tokens * self.codec.num_digits


class Canvas:
    """The layout of one example. Raises ValueError on no spans, a repeated name, or more than 2^24 sub-tokens."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.spans: tuple[Span, ...] = tuple(spans)
        names = [span.name for span in self.spans]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a canvas needs spans of different names, got {names}")
        self._token_start: dict[str, int] = {}
        self._subtoken_start: dict[str, int] = {}
        token, digit, span_of = [], [], []
        tokens = subtokens = 0
        for index, span in enumerate(self.spans):
            self._token_start[span.name], self._subtoken_start[span.name] = tokens, subtokens
            if subtokens + span.num_subtokens > _MAX_SUBTOKENS:
                raise ValueError(
                    f"span {span.name!r} of length {span.length}: a canvas has at most {_MAX_SUBTOKENS} sub-tokens"
                )
            levels = span.codec.num_digits
            token.append(torch.arange(tokens, tokens + span.num_tokens).repeat_interleave(levels))
            digit.append(torch.arange(levels).repeat(span.num_tokens))
            span_of.append(torch.full((span.num_subtokens,), index))
            tokens, subtokens = tokens + span.num_tokens, subtokens + span.num_subtokens
        self.num_tokens, self.num_subtokens = tokens, subtokens
        self.token_of = torch.cat(token)
        self.digit_of = torch.cat(digit)
        self.span_of = torch.cat(span_of)
        self._moved: dict[torch.device, Tensor] = {}

    def has(self, name: str) -> bool:
        return name in self._token_start

    def span(self, name: str) -> Span:
        """The span of that name. Raises ValueError naming the spans there are."""
        for span in self.spans:
            if span.name == name:
                return span
        raise ValueError(f"no span {name!r} on this canvas; it has {[span.name for span in self.spans]}")

    @property
    def num_levels(self) -> int:
        """S: the most digits that a token of the canvas has."""
        return max(span.codec.num_digits for span in self.spans)

    @property
    def token_start(self) -> Tensor:
        """(N,) the position of the first digit of each sub-token's token."""
        return torch.arange(self.num_subtokens) - self.digit_of

    def token_slice(self, name: str) -> slice:
        """Where the span's tokens lie among all L tokens."""
        span = self.span(name)
        return slice(self._token_start[name], self._token_start[name] + span.num_tokens)

    def subtoken_slice(self, name: str) -> slice:
        """Where the span's sub-tokens lie among all N."""
        span = self.span(name)
        return slice(self._subtoken_start[name], self._subtoken_start[name] + span.num_subtokens)

    def pack(self, codes: Mapping[str, Tensor]) -> Tensor:
        """{"name": (B, L) or (B, h, w) codes} -> y (B, N). A span that is left out is masked (`MASK_ID`).

        Codes may be given as digits, (B, L, S) or (B, h, w, S). Raises ValueError on codes or digits that do not fit.
        """
        if not codes:
            raise ValueError("nothing to pack: give the codes of at least one span")
        for name in codes:
            self.span(name)
        first = next(iter(codes.values()))
        rows = []
        for span in self.spans:
            if span.name not in codes:
                rows.append(torch.full((len(first), span.num_subtokens), MASK_ID, device=first.device))
                continue
            rows.append(_digits_of(span, codes[span.name], len(first)))
        return torch.cat(rows, 1)

    def unpack(self, y: Tensor) -> dict[str, Tensor]:
        """y (B, N) -> {"name": (B, L) codes}, (B, L, S) digits where there are more codes than integers.

        Raises ValueError if a digit is still masked.
        """
        codes = {}
        for span in self.spans:
            digits = self.view(y, span.name)
            if not span.codec.has_integers:
                span.codec.check_whole(digits)
            codes[span.name] = span.codec.decode(digits) if span.codec.has_integers else digits
        return codes

    def view(self, y: Tensor, name: str) -> Tensor:
        """The span of a row (..., N) as (..., L, S)."""
        self.check(y)
        span = self.span(name)
        return y[..., self.subtoken_slice(name)].unflatten(-1, (span.num_tokens, span.codec.num_digits))

    def token_on(self, device: torch.device) -> Tensor:
        """`token_of` on a device; moved there once."""
        if device not in self._moved:
            self._moved[device] = self.token_of.to(device)
        return self._moved[device]

    def tokens_with(self, marked: Tensor) -> Tensor:
        """(A, N) bool -> (A, L): tokens with a marked sub-token."""
        out = torch.zeros(len(marked), self.num_tokens, dtype=torch.int64, device=marked.device)
        return out.index_add_(1, self.token_on(marked.device), marked.long()) > 0

    def first_in_token(self, marked: Tensor, group: Tensor | None = None) -> Tensor:
        """(B, N) bool -> the first marked digit of each token, or with group (N,), rising inside a token, of each group
        of a token."""
        count = marked.long().cumsum(-1)
        start = self.token_start
        if group is not None:
            unit = self.token_of * (1 + int(group.max())) + group
            start = torch.searchsorted(unit, unit)
        start = start.to(marked.device)
        before = count[:, start] - marked[:, start].long()
        return marked & (count - before == 1)

    def at_level(self, x: Tensor, level: int) -> Tensor:
        """x (B, N) -> (B, L): the value at one digit level of each token, 0 where the token has no such level."""
        chosen = (self.digit_of == level).nonzero()[:, 0]
        out = torch.zeros(len(x), self.num_tokens, dtype=x.dtype, device=x.device)
        out[:, self.token_of[chosen].to(x.device)] = x[:, chosen.to(x.device)]
        return out

    def full_mask(self, mask: Tensor | None, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """None, (N,) or (B, N) bool -> (B, N) bool. Raises ValueError on another shape or dtype."""
        if mask is None:
            return torch.zeros(batch, self.num_subtokens, dtype=torch.bool, device=device)
        if mask.dtype != torch.bool or mask.shape not in {(self.num_subtokens,), (batch, self.num_subtokens)}:
            wanted = f"bool ({self.num_subtokens},) or ({batch}, {self.num_subtokens})"
            raise ValueError(f"a mask of sub-tokens is {wanted}, got {mask.dtype} {tuple(mask.shape)}")
        return mask.to(device).expand(batch, -1)

    def check(self, y: Tensor) -> None:
        if y.shape[-1] != self.num_subtokens:
            raise ValueError(f"expected {self.num_subtokens} sub-tokens on the last axis, got shape {tuple(y.shape)}")

    def check_digits(self, y: Tensor) -> None:
        """Raises ValueError when a digit of y (B, N) reaches its radix (a wrong cell would be scored in silence)."""
        self.check(y)
        for span in self.spans:
            outside = self.view(y, span.name) >= torch.tensor(span.codec.radices, device=y.device)
            if outside.any():
                b, n = outside.flatten(1).nonzero()[0].tolist()
                n += self._subtoken_start[span.name]
                radices = f"radices {span.codec.radices} of span {span.name!r}"
                raise ValueError(f"digit {int(y[b, n])} at sub-token {n} of example {b} is outside the {radices}")

    def mask(
        self,
        name: str | None = None,
        box: tuple[int, int, int, int] | None = None,
        digits: Sequence[int] | None = None,
    ) -> Tensor:
        """A region as (N,) bool: a span, a box (x0, y0, x1, y1) of its grid (x1, y1 excluded), some digit levels.

        Raises ValueError on a box outside the grid or without a grid to lie on.
        """
        region = torch.ones(self.num_subtokens, dtype=torch.bool)
        if name is not None:
            region = self.span_of == [span.name for span in self.spans].index(self.span(name).name)
        if box is not None:
            region = region & self._box(name, box)
        if digits is not None:
            region = region & torch.isin(self.digit_of, torch.tensor(list(digits)))
        return region

    def _box(self, name: str | None, box: tuple[int, int, int, int]) -> Tensor:
        grid = None if name is None else self.span(name).grid
        if name is None or grid is None:
            raise ValueError(f"box {box} needs a span with a grid, got {name!r}")
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= grid[1] and 0 <= y0 < y1 <= grid[0]):
            raise ValueError(f"box {box} (x0, y0, x1, y1) lies outside the {grid[1]} x {grid[0]} grid of {name!r}")
        index = self.token_of - self._token_start[name]
        row, column = index // grid[1], index % grid[1]
        return (row >= y0) & (row < y1) & (column >= x0) & (column < x1)

    def __repr__(self) -> str:
        parts = ", ".join(f"{s.name}: {s.length} x {s.codec.radices}" for s in self.spans)
        return f"Canvas({parts})"


def _digits_of(span: Span, x: Tensor, batch: int) -> Tensor:
    """Codes or digits of a span -> its part of the row (B, L·S)."""
    codec, flat = span.codec, x.flatten(1)
    if flat.shape == (batch, span.num_tokens):
        return codec.encode(flat).flatten(1)
    if flat.shape != (batch, span.num_subtokens) or x.shape[-1] != codec.num_digits:
        raise ValueError(
            f"span {span.name!r} holds {batch} x {span.num_tokens} codes of {codec.num_digits} digits, got shape "
            f"{tuple(x.shape)}"
        )
    digits = flat.long().unflatten(1, (span.num_tokens, codec.num_digits))
    codec.check_whole(digits)
    return flat.long()
