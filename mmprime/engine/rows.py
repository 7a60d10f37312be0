"""Rows: a batch of examples on a canvas, with what is given, what is absent and what conditions them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .canvas import Canvas

Condition = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """y (B, N) digits; given (B, N) bool: known from the start, not scored; absent (B, N) bool: masked throughout, not
    scored; cond: (B, ...) tensors by name. `rows[index]` picks examples."""

    y: Tensor
    given: Tensor
    absent: Tensor
    cond: Condition | None = None

    @classmethod
    def of(
        cls,
        canvas: Canvas,
        y: Tensor | Rows,
        given: Tensor | None = None,
        absent: Tensor | None = None,
        cond: Condition | None = None,
    ) -> Rows:
        """Rows of digits y (B, N) with masks None, (N,) or (B, N) bool; rows as they are.

        Raises ValueError on a mask of another shape or dtype, digits outside their radix, a digit of y that is masked
        and not absent, or masks beside rows that have their own.
        """
        if isinstance(y, Rows):
            if given is not None or absent is not None or cond is not None:
                raise ValueError("rows say themselves what is given, absent and their condition")
            return y
        canvas.check_digits(y)
        size = len(y), y.device
        rows = cls(y, canvas.full_mask(given, *size), canvas.full_mask(absent, *size), cond)
        unknown = (y < 0) & ~rows.absent
        if unknown.any():
            b, n = unknown.nonzero()[0].tolist()
            raise ValueError(f"sub-token {n} of example {b} is masked in the data; mark it absent or give it")
        return rows

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor | slice) -> Rows:
        cond = None if self.cond is None else {name: value[index] for name, value in self.cond.items()}
        return Rows(self.y[index], self.given[index], self.absent[index], cond)

    @property
    def free(self) -> Tensor:
        """(B, N): neither given nor absent."""
        return ~(self.given | self.absent)
