"""The codes that agree with the visible digits of a token.

    C(y) = {x : digits[x]_j = y_j for every visible level j},    |C(y)| <= Π_{masked j} b_j

Codes stand in the order of their cells, Σ_j digit_j Π_{i > j} b_i; a *position* is a place in that order. The digits
of a code are also one integer, its *key*, a few bits for each level, so that agreement with any set of visible digits
is one comparison. A token with few cells left lists them; one with many compares the keys of all codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

_SPARSE = 16  # listed cells are looked up one by one, which pays where they are this many times fewer than codes


class Agreement:
    """cell (C,): the cells of the codes of a codec of these radices, None where every cell is a code, in code order.

    order (C,): codes by position, None where a position is its code; inverse (C,): positions by code. key (C,): by
    position.
    """

    def __init__(self, radices: Sequence[int], cell: Tensor | None, device: torch.device) -> None:
        self.radices, self.num_codes = tuple(radices), prod(radices) if cell is None else len(cell)
        bits = [(radix - 1).bit_length() for radix in radices]
        dtype = torch.int32 if sum(bits) < 31 else torch.int64
        self.shifts = [sum(bits[level + 1 :]) for level in range(len(bits))]
        self.fields = torch.tensor([((1 << n) - 1) << s for n, s in zip(bits, self.shifts)], dtype=dtype, device=device)
        self.strides = [prod(self.radices[level + 1 :]) for level in range(len(bits))]
        self.order: Tensor | None = None
        self.inverse: Tensor | None = None
        self.cells: Tensor | None = None  # of the positions, where they are no positions themselves
        rest = torch.arange(self.num_codes, device=device)
        if cell is not None:
            rest, order = cell.to(device).sort()
            self.order, self.inverse = None if bool((order.diff() == 1).all()) else order, order.argsort()
            self.cells = None if self.num_codes == prod(radices) else rest
        self.key = torch.zeros(self.num_codes, dtype=dtype, device=device)
        for radix, shift in zip(reversed(self.radices), reversed(self.shifts)):
            self.key |= ((rest % radix) << shift).to(dtype)
            rest = rest // radix

    def code(self, position: Tensor) -> Tensor:
        """Positions (...) -> codes (...)."""
        return position if self.order is None else self.order[position]

    def digit(self, key: Tensor, level: int) -> Tensor:
        """The digits (...) int64 of one level of keys (...)."""
        return ((key & self.fields[level]) >> self.shifts[level]).long()

    def position(self, cell: Tensor) -> Tensor:
        """Cells (...) -> positions (...), -1 where no code is."""
        if self.cells is None:
            return cell
        position = torch.searchsorted(self.cells, cell).clamp(max=self.num_codes - 1)
        return torch.where(self.cells[position] == cell, position, -1)

    def agree(self, key: Tensor, y: Tensor) -> Tensor:
        """(M, K) bool: whether codes of keys (M, K) or (K,) agree with what is visible of y (M, S)."""
        visible = torch.where(y >= 0, self.fields, 0).sum(-1, dtype=key.dtype)
        value = torch.zeros_like(visible)
        for level, shift in enumerate(self.shifts):
            value |= y[:, level].clamp(min=0).to(key.dtype) << shift
        return (key & visible[:, None]) == value[:, None]

    def cells_left(self, y: Tensor) -> Tensor:
        """(M,) cells that agree with y (M, S)."""
        return torch.where(y < 0, torch.tensor(self.radices, device=y.device), 1).prod(-1)

    def groups(self, y: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Rows (m,) of y (M, S) with the positions (m, K) of the codes that agree, -1 where a cell has none, for each K
        on its own; None for the rows with many."""
        left = self.cells_left(y)
        left = torch.where(left * _SPARSE > self.num_codes, 0, left)
        for count in left.unique().tolist():
            rows = (left == count).nonzero()[:, 0]
            yield rows, self.position(self._listed(y[rows], count)) if count else None

    def index(self, y: Tensor, aim: Tensor) -> Tensor:
        """(M,) index of the code of digits aim (M, S), which agree with y (M, S), among the cells left of y."""
        index = torch.zeros_like(aim[:, 0])
        for level, radix in enumerate(self.radices):
            index = torch.where(y[:, level] < 0, index * radix + aim[:, level], index)
        return index

    def _listed(self, y: Tensor, count: int) -> Tensor:
        """(M, K) the cells that agree with y (M, S), K for each row, in order."""
        masked, row = (y < 0).unique(dim=0, return_inverse=True)
        rest = torch.arange(count, device=y.device).expand(len(masked), count)
        cell = torch.zeros_like(rest)
        for level in reversed(range(len(self.radices))):
            radix = torch.where(masked[:, level, None], self.radices[level], 1)
            cell = cell + rest % radix * self.strides[level]
            rest = rest // radix
        return cell[row] + (y.clamp(min=0) * torch.tensor(self.strides, device=y.device)).sum(-1, keepdim=True)
