"""Quantizers whose dimensions are digits: no code book, any number of codes.

* ``fsq`` every dimension is bounded and rounded to L_j values (arXiv 2309.15505)
* ``lfq`` every dimension is its sign; an entropy term spreads the codes (arXiv 2310.05737)
* ``bsq`` the same on the sphere: signs of z/|z|, divided by √d (arXiv 2406.07548)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..config import ImageTokenizerConfig
from .base import Quantized, Quantizer

EXACT_ENTROPY = 2**12  # codes up to which the entropy of their mean distribution is summed over all of them

_MARGIN = 1e-3  # of FSQ's range, so that the outermost values are reached


class FSQ(Quantizer):
    """Finite scalar quantization; the last dimension is the most significant digit."""

    ordinal = True

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ as Inner

        self.bounds = tuple(reversed(config.levels))
        with torch.device("cpu"):  # the library computes with its levels, which have no values on the meta device
            self.inner = Inner(list(config.levels), return_indices=False)

    def forward(self, vectors: Tensor) -> Quantized:
        quantized, _ = self.inner(vectors)
        half = torch.tensor([base // 2 for base in self.bounds], device=vectors.device)
        rows = quantized.detach().float().permute(0, 2, 3, 1).flip(-1)
        return Quantized(quantized, (rows * half + half).round().long(), vectors.new_zeros(()))

    def continuous(self, vectors: Tensor) -> Tensor:
        levels = torch.tensor(self.bounds[::-1], device=vectors.device)[:, None, None]
        half, offset = (levels - 1) * (1 + _MARGIN) / 2, (1 - levels % 2) / 2
        return ((vectors.float() + (offset / half).atanh()).tanh() * half - offset) / (levels // 2)

    def vectors_of(self, digits: Tensor) -> Tensor:
        bounds = torch.tensor(self.bounds, device=digits.device)
        values = torch.where(digits < 0, (bounds - 1) / 2, digits.float())
        return ((values - bounds // 2) / (bounds // 2)).flip(-1)


class LFQ(Quantizer):
    """Lookup-free quantization; the first dimension is the most significant bit.

        loss = w·(mean_i H(p_i) - H(mean_i p_i)) + commitment·mean (z - q)²     p_i(c) ∝ exp(2·τ·z_i·e_c)

    τ = 10; with means over one batch, not over processes, so that the loss does not depend on their number. p_i is a
    product over bits, so H(p_i) is a sum; above `EXACT_ENTROPY` codes H(mean_i p_i) is taken as the sum over bits too,
    which it does not exceed.
    """

    inverse_temperature = 10.0
    ordinal = True

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.bounds = (2,) * config.latent_dim
        self.entropy, self.commitment = config.entropy, config.commitment

    @property
    def scale(self) -> float:
        """The size of a coordinate of a code."""
        return 1.0

    def project(self, vectors: Tensor) -> Tensor:
        """What the signs are taken of, and the loss: the vectors (B, d, h, w) themselves."""
        return vectors

    def continuous(self, vectors: Tensor) -> Tensor:
        return self.project(vectors)

    def forward(self, vectors: Tensor) -> Quantized:
        vectors = self.project(vectors)
        bits = vectors.detach() > 0
        quantized = (bits.to(vectors.dtype) * 2 - 1) * self.scale
        digits = bits.permute(0, 2, 3, 1).long()
        if not self.training:
            return Quantized(quantized, digits, vectors.new_zeros(()))
        loss = self.entropy * self._entropy_gap(vectors.float())
        loss = loss + self.commitment * (vectors.float() - quantized.float()).square().mean()
        return Quantized(vectors + (quantized - vectors).detach(), digits, loss)

    def vectors_of(self, digits: Tensor) -> Tensor:
        return torch.where(digits < 0, 0.0, digits.float() * 2 - 1) * self.scale

    def _entropy_gap(self, vectors: Tensor) -> Tensor:
        """mean_i H(p_i) - H(mean_i p_i) of vectors (B, d, h, w): low where each is sure and all codes are in use."""
        rows = vectors.permute(0, 2, 3, 1).flatten(0, 2)
        if self.num_codes <= EXACT_ENTROPY:
            probs = (2 * self.inverse_temperature * rows @ self.codebook().to(rows).T).softmax(-1)
            return _entropy(probs).mean() - _entropy(probs.mean(0))
        ones = (4 * self.inverse_temperature * self.scale * rows).sigmoid()
        probs = torch.stack([ones, 1 - ones], -1)
        return _entropy(probs).sum(-1).mean() - _entropy(probs.mean(0)).sum()


class BSQ(LFQ):
    """Binary spherical quantization: the loss of `LFQ` with z/|z|, e_c = ±1/√d and τ = 100."""

    inverse_temperature = 100.0

    @property
    def scale(self) -> float:
        """1/√d: codes lie on the unit sphere."""
        return len(self.bounds) ** -0.5

    def project(self, vectors: Tensor) -> Tensor:
        """Vectors (B, d, h, w) on the unit sphere."""
        return functional.normalize(vectors, dim=1)


def _entropy(probs: Tensor) -> Tensor:
    """Nats over the last axis; the clamp keeps its gradient finite at 0."""
    return -(probs * probs.clamp(min=1e-5).log()).sum(-1)
