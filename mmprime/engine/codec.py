"""Codecs: a token written as sub-tokens (digits).

    digits[x] = (y_1, ..., y_S),   y_j in {0, ..., b_j - 1},   x in {0, ..., C - 1},   x -> digits[x] injective

A codec is that table, or all combinations of the digits (`Codec.product`). S = 1 is plain masked diffusion. The
radices (b_1, ..., b_S) span the *digit grid*; grid cells that no code occupies hold probability zero for ever
(`to_grid` puts -inf there), so a partly visible token can only end as a code that exists.

Source: Chao et al., "Beyond Masked and Unmasked: Discrete Diffusion Models via Partial Masking",
arXiv 2505.18495, section 3.1 (base-b sub-tokens).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .agreement import Agreement
from .clustering import balanced_hierarchy
from .rng import generator_of

MASK_ID = -1
"""The value of a masked sub-token, for every codec."""

_MAX_CELLS = 1 << 26
MAX_INTEGER_CODES = 1 << 62


def integer_root(num_codes: int, num_digits: int) -> int:
    """The smallest b with b ** num_digits >= num_codes, in exact integer arithmetic."""
    base = max(1, round(num_codes ** (1.0 / num_digits)))
    while base**num_digits < num_codes:
        base += 1
    while base > 1 and (base - 1) ** num_digits >= num_codes:
        base -= 1
    return base


class Codec:
    """An injective table `digits` (C, S) with radices (b_1, ..., b_S).

    Raises ValueError when a digit lies outside its radix or two codes share their digits.
    """

    mask_id = MASK_ID
    has_table = True  # of digits, one row a code
    has_integers = True  # a code is an integer below 2^62

    def __init__(self, digits: Tensor, radices: Sequence[int]) -> None:
        digits = digits.detach().to("cpu", torch.int64).contiguous()
        if digits.ndim != 2 or digits.shape[0] < 1 or digits.shape[1] < 1:
            raise ValueError(f"a codec table has shape (codes, digits), got {tuple(digits.shape)}")
        self.radices: tuple[int, ...] = tuple(int(b) for b in radices)
        if len(self.radices) != digits.shape[1]:
            raise ValueError(f"{len(self.radices)} radices {self.radices} for {digits.shape[1]} digits")
        outside = ((digits < 0) | (digits >= torch.tensor(self.radices))).any(-1)
        if outside.any():
            code = int(outside.nonzero()[0])
            raise ValueError(f"code {code} has digits {digits[code].tolist()} outside radices {self.radices}")
        self.num_cells = math.prod(self.radices)
        if self.num_cells > _MAX_CELLS:
            raise ValueError(
                f"radices {self.radices} span {self.num_cells} cells for {len(digits)} codes; choose smaller radices"
            )
        self.digits = digits
        self.cell = self._ravel(digits)
        order = torch.argsort(self.cell)
        twin = (self.cell[order].diff() == 0).nonzero()
        if len(twin):
            a, b = sorted(order[int(twin[0]) : int(twin[0]) + 2].tolist())
            raise ValueError(f"codes {a} and {b} share the digits {digits[a].tolist()}; a codec must be injective")
        self.code_at = torch.full((self.num_cells,), -1, dtype=torch.int64)
        self.code_at[self.cell] = torch.arange(len(digits))
        self._moved: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
        self._agreements: dict[torch.device, Agreement] = {}

    # ---------------------------------------------------------------- constructors

    @classmethod
    def base(cls, num_codes: int, num_digits: int) -> Codec:
        """Base-b digits, most significant first; b is the exact integer root (C = 16807, S = 5 has b = 7)."""
        if num_codes < 1 or num_digits < 1:
            raise ValueError(f"need num_codes >= 1 and num_digits >= 1, got {num_codes} and {num_digits}")
        return cls.mixed_radix((integer_root(num_codes, num_digits),) * num_digits, num_codes)

    @classmethod
    def mixed_radix(cls, radices: Sequence[int], num_codes: int | None = None) -> Codec:
        """Digits of the code index in the given radices, most significant first (the levels of an FSQ tokenizer)."""
        cells = math.prod(radices)
        num_codes = cells if num_codes is None else num_codes
        if not 1 <= num_codes <= cells:
            raise ValueError(f"radices {tuple(radices)} hold {cells} codes, asked for {num_codes}")
        rest = torch.arange(num_codes)
        columns = []
        for b in reversed(radices):
            columns.append(rest % b)
            rest = rest // b
        return cls(torch.stack(columns[::-1], -1), radices)

    @classmethod
    def shuffled(cls, num_codes: int, num_digits: int, seed: int) -> Codec:
        """Base-b digits of a fixed random permutation of the codes."""
        plain = cls.base(num_codes, num_digits)
        order = torch.randperm(num_codes, generator=generator_of(seed))
        return cls(plain.digits[order], plain.radices)

    @classmethod
    def clustered(
        cls, vectors: Tensor, num_digits: int = 2, radices: Sequence[int] | None = None, seed: int = 0
    ) -> Codec:
        """Digits from hierarchical balanced k-means of `vectors` (C, d): the first digit tells about what the code is.

        Two digits default to ceil(C/8) clusters of 8 members; other counts to the integer root at every level.
        """
        num_codes = len(vectors)
        if radices is None:
            wide = num_digits == 2 and num_codes >= 16
            base = integer_root(num_codes, num_digits)
            radices = (math.ceil(num_codes / 8), 8) if wide else (base,) * num_digits
        if len(radices) != num_digits or math.prod(radices) < num_codes:
            raise ValueError(f"radices {tuple(radices)} cannot hold {num_codes} codes in {num_digits} digits")
        return cls(balanced_hierarchy(vectors, tuple(radices), seed), radices)

    @classmethod
    def from_table(cls, digits: Tensor, radices: Sequence[int] | None = None) -> Codec:
        """A codec from an explicit table (C, S); radices default to the largest digit plus one."""
        if radices is None:
            radices = (digits.amax(0) + 1).tolist()
        return cls(digits, radices)

    @classmethod
    def product(cls, radices: Sequence[int]) -> Codec:
        """All combinations of digits in the given radices, of any number, without a table.

        Raises ValueError on no radices, or one below 1.
        """
        return ProductCodec(radices)

    # ---------------------------------------------------------------- use

    @property
    def num_codes(self) -> int:
        return self.digits.shape[0]

    @property
    def num_digits(self) -> int:
        return self.digits.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Codes (...) -> digits (..., S). Raises ValueError on a code outside [0, C)."""
        self._check_codes(x)
        return self._on(x.device)[0][x.long()]

    def decode(self, y: Tensor) -> Tensor:
        """Digits (..., S) -> codes (...). Raises ValueError on a masked digit or a code that does not exist."""
        self.check_whole(y)
        codes = self._on(y.device)[2][self._ravel(y)]
        if (codes < 0).any():
            raise ValueError(f"no code has the digits {y[codes < 0][0].tolist()}")
        return codes

    def to_grid(self, logits: Tensor) -> Tensor:
        """Logits (M, C) in code order -> (M, b_1, ..., b_S), -inf in the cells without a code."""
        self._check_width(logits)
        cell, code_at = self._on(logits.device)[1:]
        return cast(Tensor, _ToCells.apply(logits, cell, code_at)).view(-1, *self.radices)

    def agreement(self, device: torch.device) -> Agreement:
        """Which codes agree with visible digits; its tables lie on the device."""
        if device not in self._agreements:
            self._agreements[device] = Agreement(self.radices, self.cell if self.has_table else None, device)
        return self._agreements[device]

    def fingerprint(self) -> str:
        """A short hash of radices and table; equal codecs, equal hash."""
        body = repr(self.radices).encode() + self.digits.numpy().tobytes()
        return hashlib.sha256(body).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codec) and self.radices == other.radices and torch.equal(self.digits, other.digits)

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        return f"Codec(num_codes={self.num_codes}, radices={self.radices})"

    def _check_codes(self, x: Tensor) -> None:
        if x.numel() and (int(x.min()) < 0 or int(x.max()) >= self.num_codes):
            raise ValueError(f"codes span [{int(x.min())}, {int(x.max())}], the codec has [0, {self.num_codes - 1}]")

    def check_whole(self, y: Tensor) -> None:
        """Raises ValueError on digits (..., S) that are masked or outside their radix."""
        if y.shape[-1] != self.num_digits:
            raise ValueError(f"expected {self.num_digits} digits on the last axis, got shape {tuple(y.shape)}")
        bad = ((y < 0) | (y >= torch.tensor(self.radices, device=y.device))).any(-1)
        if bad.any():
            raise ValueError(f"cannot decode digits {y[bad][0].tolist()}: masked ({MASK_ID}) or outside {self.radices}")

    def _check_width(self, logits: Tensor) -> None:
        if logits.shape[-1] != self.num_codes:
            raise ValueError(f"logits have {logits.shape[-1]} codes, the codec has {self.num_codes}")

    def _ravel(self, digits: Tensor) -> Tensor:
        cell = torch.zeros_like(digits[..., 0])
        for j, b in enumerate(self.radices):
            cell = cell * b + digits[..., j]
        return cell

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """digits, cell of each code, code of each cell (-1 for none), on a device."""
        if device not in self._moved:
            self._moved[device] = (self.digits.to(device), self.cell.to(device), self.code_at.to(device))
        return self._moved[device]


class ProductCodec(Codec):
    """All combinations of digits in the radices (b_1, ..., b_S), without a table, of any number.

    Digits of a residual, lookup-free or finite-scalar quantizer, of pixels, of bits. A code as one integer exists up to
    2^62 of them (mixed radix, most significant first); beyond, a token is its digits.
    """

    has_table = False

    def __init__(self, radices: Sequence[int]) -> None:
        self.radices = tuple(int(b) for b in radices)
        if not self.radices or min(self.radices) < 1:
            raise ValueError(f"a product codec needs radices of at least 1, got {self.radices}")
        self.num_cells = math.prod(self.radices)
        self.has_integers = self.num_cells <= MAX_INTEGER_CODES
        self._agreements = {}

    @property
    def num_codes(self) -> int:
        return self.num_cells

    @property
    def num_digits(self) -> int:
        return len(self.radices)

    def encode(self, x: Tensor) -> Tensor:
        """Integer codes (...) -> digits (..., S). Raises ValueError on a code outside [0, C), or where C > 2^62."""
        self._need_integers()
        self._check_codes(x)
        rest, columns = x.long(), []
        for b in reversed(self.radices):
            columns.append(rest % b)
            rest = rest // b
        return torch.stack(columns[::-1], -1)

    def decode(self, y: Tensor) -> Tensor:
        """Digits (..., S) -> integer codes (...). Raises ValueError on a masked digit, or where C > 2^62."""
        self._need_integers()
        self.check_whole(y)
        return self._ravel(y)

    def to_grid(self, logits: Tensor) -> Tensor:
        """Logits (M, C) in code order -> (M, b_1, ..., b_S)."""
        self._check_width(logits)
        return logits.view(-1, *self.radices)

    def fingerprint(self) -> str:
        """A short hash of the radices; equal codecs, equal hash."""
        return hashlib.sha256(repr(("product", self.radices)).encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProductCodec) and self.radices == other.radices

    __hash__ = Codec.__hash__

    def __repr__(self) -> str:
        return f"Codec.product({self.radices})"

    def _need_integers(self) -> None:
        if not self.has_integers:
            raise ValueError(
                f"radices {self.radices} make {self.num_codes} codes, more than the 2^62 that integers hold; "
                "give and take tokens as digits"
            )


class _ToCells(torch.autograd.Function):
    """Columns in code order -> columns in cell order; the gradient is the inverse gather, not a scatter-add."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, cell: Tensor, code_at: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        out = logits.index_select(-1, code_at.clamp(min=0))
        return out if len(cell) == len(code_at) else out.masked_fill_(code_at < 0, -math.inf)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (cell,) = ctx.saved_tensors
        return grad.index_select(-1, cell), None, None
