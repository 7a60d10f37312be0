"""Vectors to codes and back, by vector-quantize-pytorch behind one small interface.

* ``vq``  code(z) = argmin_c |z - e_c|; e_c is the moving average of the vectors it won (arXiv 1711.00937, appendix A);
  gradients cross by the rotation trick (arXiv 2410.06424).
* ``fsq`` every dimension is bounded and rounded to L_j values (arXiv 2309.15505).
* ``lfq`` every dimension is its sign; an entropy term spreads the codes (arXiv 2310.05737).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from mmprime.tokenizers.config import ImageTokenizerConfig


class Quantized(NamedTuple):
    """What a quantizer returns."""

    vectors: Tensor  # (B, d, h, w), with gradients to the input
    codes: Tensor  # (B, h, w) int64
    loss: Tensor  # scalar, zero in eval mode


class Quantizer(nn.Module):
    """A map between vectors (B, d, h, w) and codes (B, h, w) in [0, C).

    ``transient`` names the buffers only training needs; they are not part of a saved tokenizer. ``radices``: if the
    code is a number of digits, each one dimension, their bases, most significant first; else empty.
    """

    num_codes: int
    radices: tuple[int, ...] = ()
    transient: frozenset[str] = frozenset()

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantize ``vectors`` (B, d, h, w)."""
        raise NotImplementedError

    def vectors_of(self, codes: Tensor) -> Tensor:
        """``codes`` (B, h, w) -> (B, d, h, w)."""
        return rearrange(self.codebook()[codes], "b h w d -> b d h w")

    def codebook(self) -> Tensor:
        """(C, d): the vector of every code."""
        raise NotImplementedError

    def restore_transient(self) -> None:
        """Set the transient buffers after the others were loaded."""


class VQ(Quantizer):
    """A learned code book with k-means start, moving averages and revival of dead codes.

    All its state is in buffers and its random draws come from torch's global generator, so a checkpoint of the two
    continues bitwise.
    """

    transient = frozenset({"inner._codebook.initted", "inner._codebook.cluster_size", "inner._codebook.embed_avg"})

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.num_codes = config.num_codes
        self.inner = VectorQuantize(
            dim=config.code_dim,
            codebook_size=config.num_codes,
            decay=config.decay,
            kmeans_init=True,
            use_cosine_sim=config.cosine,
            threshold_ema_dead_code=config.revive_below,
            commitment_weight=config.commitment,
            accept_image_fmap=True,
        )

    def forward(self, vectors: Tensor) -> Quantized:
        with self._start_only_in_training():
            quantized, codes, loss = self.inner(vectors)
        return Quantized(quantized, codes, loss.sum())

    @contextmanager
    def _start_only_in_training(self) -> Iterator[None]:
        """The library starts the code book from the first batch it sees; looking at held-out images must not."""
        started = self.inner._codebook.initted
        if self.training or started:
            yield
            return
        started.fill_(True)
        try:
            yield
        finally:
            started.fill_(False)

    def codebook(self) -> Tensor:
        return self.inner.codebook.detach()

    def restore_transient(self) -> None:
        book = self.inner._codebook
        book.initted.fill_(True)
        book.cluster_size.fill_(max(1.0, float(book.threshold_ema_dead_code)))
        book.embed_avg.copy_(book.embed * book.cluster_size[..., None])


class FSQ(Quantizer):
    """Finite scalar quantization; code = Σ_j level_j · Π_{i<j} L_i, so the last dimension is the most significant."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ as Inner

        self.num_codes = math.prod(config.levels)
        self.radices = tuple(reversed(config.levels))
        self.inner = Inner(list(config.levels))

    def forward(self, vectors: Tensor) -> Quantized:
        quantized, codes = self.inner(vectors)
        return Quantized(quantized, codes.long(), vectors.new_zeros(()))

    def codebook(self) -> Tensor:
        return self.inner.implicit_codebook


class LFQ(Quantizer):
    """Lookup-free quantization; the first dimension is the most significant bit."""

    transient = frozenset({"inner.mask"})

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import LFQ as Inner

        self.num_codes = config.num_codes
        self.radices = (2,) * config.latent_dim
        self.inner = Inner(
            codebook_size=config.num_codes,
            dim=config.latent_dim,
            entropy_loss_weight=config.entropy,
            commitment_loss_weight=config.commitment,
        )

    def forward(self, vectors: Tensor) -> Quantized:
        quantized, codes, loss = self.inner(vectors, inv_temperature=10.0)
        return Quantized(quantized, codes.long(), loss)

    def codebook(self) -> Tensor:
        return self.inner.codebook


def build_quantizer(config: ImageTokenizerConfig) -> Quantizer:
    """The quantizer named by ``config.quantizer``."""
    config.check()
    kinds: dict[str, type[VQ] | type[FSQ] | type[LFQ]] = {"vq": VQ, "fsq": FSQ, "lfq": LFQ}
    return kinds[config.quantizer](config)


def code_usage(codes: Tensor, num_codes: int) -> tuple[float, float]:
    """(share of codes that occur, perplexity exp(H) of their frequencies) in ``codes`` of any shape."""
    counts = torch.bincount(codes.flatten().cpu(), minlength=num_codes).double()
    share = counts[counts > 0] / counts.sum()
    return len(share) / num_codes, math.exp(float(-(share * share.log()).sum()))
