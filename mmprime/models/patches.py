"""Patches: p x p tokens of a grid as one position of the trunk.

    x_P = J (e_1, ..., e_p²)                         embeddings of the tokens of a patch, side by side -> one position
    z_i = U_i r(h_P) + e_i,   h_i = z_i + F(r(z_i))  the position's state -> a state of each of its tokens

e_i is the embedding of token i, with what is visible of it, i in raster order inside the patch; r is RMS normalisation,
F a SwiGLU network as wide as the trunk. Blocks and attention cost what L / p² positions cost, and each token still has
a state of its own: masks, heads and samplers know nothing of patches. Patches as positions: Dosovitskiy et al., arXiv
2010.11929.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmprime.engine import Canvas, Span

from .layers import rms_norm


class Patches(nn.Module):
    """Of the spans of a canvas that have a grid; tokens of other spans are positions as they are.

    Raises ValueError where patches of more than one token find no grid, or do not fill it.
    """

    def __init__(self, canvas: Canvas, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        grids = [span.name for span in canvas.spans if span.grid is not None] if side > 1 else []
        if side > 1 and not grids:
            names = ", ".join(span.name for span in canvas.spans)
            raise ValueError(f"patch={side} joins tokens of a grid, and none of the spans ({names}) has one; use 1")
        self.maps = nn.ModuleDict({name: _PatchMap(width, side) for name in grids})
        self.coarse(canvas)  # which checks it

    def coarse(self, canvas: Canvas) -> Canvas:
        """The canvas of the trunk, one token for each position.

        Raises ValueError on a grid that patches do not fill, and where there is a grid and was none, or none and was.
        """
        self._check(canvas)
        return canvas if self.side == 1 else Canvas([_coarse(span, self.side) for span in canvas.spans])

    def positions(self, tokens: Tensor, canvas: Canvas) -> Tensor:
        """Embeddings (B, L, D) of all tokens -> (B, P, D) of the positions of the trunk."""
        if not self.maps:
            return tokens
        self._check(canvas)
        parts = _parts(tokens, canvas)
        return torch.cat([self._map(s).join(_patches(x, s, self.side)) if s.grid else x for s, x in parts], 1)

    def tokens(self, states: Tensor, embedded: Tensor, canvas: Canvas) -> Tensor:
        """States (B, P, D) of positions, embeddings (B, L, D) of tokens -> states (B, L, D) of tokens."""
        if not self.maps:
            return states
        pairs = zip(_parts(states, self.coarse(canvas)), _parts(embedded, canvas))
        return torch.cat([self._map(s)(h, e, s) if s.grid else h for (s, h), (_, e) in pairs], 1)

    def wanted(self, tokens: Tensor, canvas: Canvas) -> Tensor:
        """(B, L) bool of tokens -> (B, P): positions with a token that is wanted."""
        if not self.maps:
            return tokens
        self._check(canvas)
        parts = _parts(tokens[..., None], canvas)
        return torch.cat([_patches(x, s, self.side).any(-1) if s.grid else x[..., 0] for s, x in parts], 1)

    def _check(self, canvas: Canvas) -> None:
        for span in canvas.spans:
            if self.maps and (span.grid is not None) != (span.name in self.maps):
                one = "a grid" if span.grid is None else "a sequence"
                raise ValueError(f"span {span.name!r} of length {span.length}: the model was built for {one} there")

    def _map(self, span: Span) -> _PatchMap:
        return cast(_PatchMap, self.maps[span.name])


class _PatchMap(nn.Module):
    """J, U and F of one span: states (B, l / p², D) of its positions, embeddings (B, l, D) -> states (B, l, D)."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.join = nn.Linear(side**2 * width, width, bias=False)
        self.split = nn.Linear(width, side**2 * width, bias=False)
        self.gate, self.up = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)
        for linear in (self.join, self.split, self.gate, self.up, self.down):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def forward(self, states: Tensor, embedded: Tensor, coarse: Span) -> Tensor:
        assert coarse.grid is not None
        parts, p = self.split(rms_norm(states)), self.side
        z = rearrange(parts, "b (h w) (p q d) -> b (h p w q) d", p=p, q=p, w=coarse.grid[1]) + embedded
        r = rms_norm(z)
        return z + self.down(F.silu(self.gate(r)) * self.up(r))


def _coarse(span: Span, side: int) -> Span:
    if span.grid is None:
        return span
    height, width = span.grid
    if height % side or width % side:
        raise ValueError(
            f"patch={side} does not fill the {height} x {width} grid of {span.name!r}; choose a divisor of both"
        )
    return Span(span.name, (height // side, width // side), span.codec)


def _parts(x: Tensor, canvas: Canvas) -> Iterator[tuple[Span, Tensor]]:
    """The spans of a canvas with their share of x (B, L, ...)."""
    for span in canvas.spans:
        yield span, x[:, canvas.token_slice(span.name)]


def _patches(x: Tensor, span: Span, side: int) -> Tensor:
    """(B, l, D) of a span with a grid -> (B, l / p², p² D)."""
    coarse = _coarse(span, side).grid
    assert coarse is not None
    return rearrange(x, "b (h p w q) d -> b (h w) (p q d)", p=side, q=side, w=coarse[1])
