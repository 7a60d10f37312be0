"""Vectors to codes and back, by vector-quantize-pytorch behind one small interface.

* ``vq``  code(z) = argmin_c |z - e_c|; e_c is the moving average of the vectors it won (arXiv 1711.00937, appendix A);
  gradients cross by the rotation trick (arXiv 2410.06424).
* ``fsq`` every dimension is bounded and rounded to L_j values (arXiv 2309.15505).
* ``lfq`` every dimension is its sign; an entropy term spreads the codes (arXiv 2310.05737).

A training step may be several micro-batches, shared by several processes: the code book stands still until
:meth:`Quantizer.update`, and moves by what all of them saw, so that it is the same whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from .config import ImageTokenizerConfig


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

    def update(self) -> None:
        """Called by all processes after each step: learn from the vectors that went through since the last call."""


class VQ(Quantizer):
    """A learned code book with k-means start, moving averages and revival of dead codes.

        n_c <- d·n_c + (1-d)·Σ_i [code_i = c]    m_c <- d·m_c + (1-d)·Σ_i [code_i = c]·z_i    e_c = m_c / n_c

    with sums over a whole step. The first process starts the code book from its first batch, the last one revives dead
    codes from its last: the first and last micro-batch of a step. All state between steps is in buffers and the random
    draws come from torch's global generator, so a checkpoint of the two continues bitwise.
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
            sync_codebook=False,  # see `update`
        )
        self._newest: Tensor | None = None  # (1, n, d) vectors of the last batch

    def forward(self, vectors: Tensor) -> Quantized:
        if self.training:
            rows = vectors.detach().permute(0, 2, 3, 1).flatten(0, 2)
            self._newest = self.inner._codebook.transform_input(rows)[None]
            self._start(self._newest.float())
        with self._start_only_in_training():
            quantized, codes, loss = self.inner(vectors, accum_ema_update=True)  # sums wait in the buffers' grad
        return Quantized(quantized, codes, loss.sum())

    @torch.no_grad()
    def update(self) -> None:
        if self._newest is None:
            return
        book, (rank, size) = self.inner._codebook, _process()
        for average in (book.cluster_size, book.embed_avg):
            total, average.grad = average.grad, None
            if size > 1:
                dist.all_reduce(total)
            average.lerp_(total, 1 - book.decay)
        book.update_ema()
        if rank == size - 1:
            book.expire_codes_(self._newest)
        self._copy_from(size - 1)
        self._newest = None

    @torch.no_grad()
    def _start(self, vectors: Tensor) -> None:
        """The first code book: k-means of ``vectors`` (1, n, d) of process 0."""
        book = self.inner._codebook
        if book.initted:
            return
        if _process()[0] == 0:
            book.init_embed_(vectors)
        book.initted.fill_(True)
        self._copy_from(0)

    def _copy_from(self, rank: int) -> None:
        """The code book of process ``rank``, for all."""
        book = self.inner._codebook
        if _process()[1] > 1:
            for buffer in (book.embed, book.embed_avg, book.cluster_size):
                dist.broadcast(buffer, rank)

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


class StoredVQ(Quantizer):
    """A learned code book that stands still, as it is loaded; `VQ` is built at the first encoding, for the library
    takes seconds to import and decoding does without it."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.num_codes, self._config = config.num_codes, config
        book = nn.Module()
        book.register_buffer("embed", torch.zeros(1, config.num_codes, config.code_dim))
        self.inner = nn.Module()
        self.inner.add_module("_codebook", book)
        self._learner: list[VQ] = []  # in a list it is no part of the state

    def forward(self, vectors: Tensor) -> Quantized:
        return self.learner()(vectors)

    def learner(self) -> VQ:
        """The same code book, to be trained on."""
        book = self.codebook()
        if not self._learner:
            learner = VQ(self._config).eval()
            learner.inner._codebook.embed.copy_(book[None])
            learner.restore_transient()
            self._learner.append(learner)
        return self._learner[0].to(book.device)

    def codebook(self) -> Tensor:
        return self.inner.get_buffer("_codebook.embed")[0]


class FSQ(Quantizer):
    """Finite scalar quantization; code = Σ_j level_j · Π_{i<j} L_i, so the last dimension is the most significant."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ as Inner

        self.num_codes = math.prod(config.levels)
        self.radices = tuple(reversed(config.levels))
        with torch.device("cpu"):  # the library computes with its levels, which have no values on the meta device
            self.inner = Inner(list(config.levels))

    def forward(self, vectors: Tensor) -> Quantized:
        quantized, codes = self.inner(vectors)
        return Quantized(quantized, codes.long(), vectors.new_zeros(()))

    def codebook(self) -> Tensor:
        return self.inner.implicit_codebook


class LFQ(Quantizer):
    """Lookup-free quantization; the first dimension is the most significant bit.

        loss = w·(mean_i H(p_i) - H(mean_i p_i)) + commitment·mean (z - q)²     p_i(c) ∝ exp(2·10·z_i·e_c)

    with means over one batch, not over processes, so that the loss does not depend on their number.
    """

    transient = frozenset({"inner.mask"})

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import LFQ as Inner

        self.num_codes = config.num_codes
        self.radices = (2,) * config.latent_dim
        self.entropy, self.commitment = config.entropy, config.commitment
        self.inner = Inner(codebook_size=config.num_codes, dim=config.latent_dim)

    def train(self, mode: bool = True) -> LFQ:
        """The library's part stays in eval mode: its entropy term would average over processes."""
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, vectors: Tensor) -> Quantized:
        quantized, codes, _ = self.inner(vectors)
        if not self.training:
            return Quantized(quantized, codes.long(), vectors.new_zeros(()))
        loss = self.entropy * self._entropy_gap(vectors.float())
        loss = loss + self.commitment * (vectors.float() - quantized.float()).square().mean()
        return Quantized(vectors + (quantized - vectors).detach(), codes.long(), loss)

    def _entropy_gap(self, vectors: Tensor) -> Tensor:
        """mean_i H(p_i) - H(mean_i p_i) of vectors (B, d, h, w): low where each is sure and all codes are in use."""
        rows = vectors.permute(0, 2, 3, 1).flatten(0, 2)
        probs = (20.0 * rows @ self.inner.codebook.float().T).softmax(-1)
        return _entropy(probs).mean() - _entropy(probs.mean(0))

    def codebook(self) -> Tensor:
        return self.inner.codebook


def build_quantizer(config: ImageTokenizerConfig) -> Quantizer:
    """The quantizer named by ``config.quantizer``."""
    config.check()
    kinds: dict[str, type[VQ] | type[FSQ] | type[LFQ]] = {"vq": VQ, "fsq": FSQ, "lfq": LFQ}
    return kinds[config.quantizer](config)


def stored_quantizer(config: ImageTokenizerConfig) -> Quantizer:
    """A quantizer to load weights into, which is not trained further."""
    return StoredVQ(config) if config.quantizer == "vq" else build_quantizer(config)


def code_usage(codes: Tensor, num_codes: int) -> tuple[float, float]:
    """(share of codes that occur, perplexity exp(H) of their frequencies) in ``codes`` of any shape."""
    counts = torch.bincount(codes.flatten().cpu(), minlength=num_codes).double()
    share = counts[counts > 0] / counts.sum()
    return len(share) / num_codes, math.exp(float(-(share * share.log()).sum()))


def _entropy(probs: Tensor) -> Tensor:
    """Nats over the last axis; the clamp keeps its gradient finite at 0."""
    return -(probs * probs.clamp(min=1e-5).log()).sum(-1)


def _process() -> tuple[int, int]:
    """(rank of this process, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
