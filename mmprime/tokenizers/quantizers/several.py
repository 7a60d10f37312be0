"""Several learned code books, one a digit: residual (RQ-VAE, arXiv 2203.01941) and grouped (product quantization).

    residual  z ≈ Σ_j e^j[y_j],  y_j = argmin_c |z - Σ_{i<j} e^i[y_i] - e^j_c|: coarse to fine
    grouped   z = (z^1, ..., z^S), each group of dimensions with a code book of its own

Every book learns as a single one does (`vq`), from the vectors that reach it. Gradients cross straight through.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..config import ImageTokenizerConfig
from .base import Quantized, Quantizer
from .vq import VQ, StoredVQ


class _Books(Quantizer):
    """Code books of ``config.levels`` entries of ``width`` dimensions; ``stored``: to load weights into."""

    books: nn.ModuleList

    def __init__(self, config: ImageTokenizerConfig, width: int, stored: bool = False) -> None:
        super().__init__()
        self._config, self.bounds = config, tuple(config.levels)
        kind = StoredVQ if stored else VQ
        each = [replace(config, quantizer="vq", num_codes=base, code_dim=width, levels=[]) for base in self.bounds]
        self.books = nn.ModuleList(kind(one) for one in each)

    @property
    def transient(self) -> frozenset[str]:  # type: ignore[override]
        """Those of the books."""
        return frozenset(f"books.{j}.{name}" for j, book in enumerate(self._each()) for name in book.transient)

    def learner(self) -> Quantizer:
        """The same books, to be trained on."""
        self.books = nn.ModuleList(book.learner() for book in self._each())
        return self

    def restore_transient(self) -> None:
        for book in self._each():
            book.restore_transient()

    def update(self) -> None:
        for book in self._each():
            book.update()

    def _each(self) -> list[Quantizer]:
        return [book for book in self.books if isinstance(book, Quantizer)]

    def _joined(self, vectors: Tensor, quantized: Tensor, parts: list[Quantized]) -> Quantized:
        """One result of those of the books; the gradient of the sum goes straight through."""
        if self.training:
            quantized = vectors + (quantized - vectors).detach()
        digits = torch.cat([part.digits for part in parts], -1)
        return Quantized(quantized, digits, torch.stack([part.loss for part in parts]).mean())


class ResidualVQ(_Books):
    """Digit j is the code of what the digits before it leave."""

    def __init__(self, config: ImageTokenizerConfig, stored: bool = False) -> None:
        super().__init__(config, config.code_dim, stored)

    def forward(self, vectors: Tensor) -> Quantized:
        parts: list[Quantized] = []
        total = torch.zeros_like(vectors)
        for book in self._each():
            parts.append(book(vectors - total))
            total = total + parts[-1].vectors.detach()
        return self._joined(vectors, total, parts)

    def vectors_of(self, digits: Tensor) -> Tensor:
        parts = [book.vectors_of(digits[..., j : j + 1]) for j, book in enumerate(self._each())]
        return torch.stack(parts).sum(0)


class GroupedVQ(_Books):
    """Digit j is the code of group j of the dimensions."""

    def __init__(self, config: ImageTokenizerConfig, stored: bool = False) -> None:
        super().__init__(config, config.code_dim // len(config.levels), stored)

    def forward(self, vectors: Tensor) -> Quantized:
        groups = vectors.chunk(len(self.bounds), 1)
        parts = [book(group.contiguous()) for book, group in zip(self._each(), groups)]
        return self._joined(vectors, torch.cat([part.vectors for part in parts], 1).detach(), parts)

    def vectors_of(self, digits: Tensor) -> Tensor:
        return torch.cat([book.vectors_of(digits[..., j : j + 1]) for j, book in enumerate(self._each())], -1)
