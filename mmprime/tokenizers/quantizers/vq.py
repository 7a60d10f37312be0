"""A learned code book: code(z) = argmin_c |z - e_c|, by vector-quantize-pytorch behind one small interface.

e_c is the moving average of the vectors it won (arXiv 1711.00937, appendix A); gradients cross by the rotation trick
(arXiv 2410.06424).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..config import ImageTokenizerConfig
from .base import Quantized, Quantizer


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

        self.bounds = (config.num_codes,)
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
        return Quantized(quantized, codes[..., None], loss.sum())

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

    def vectors_of(self, digits: Tensor) -> Tensor:
        return look_up(self.codebook(), digits[..., 0])

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
        self.bounds, self._config = (config.num_codes,), config
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

    def vectors_of(self, digits: Tensor) -> Tensor:
        return look_up(self.codebook(), digits[..., 0])


def look_up(book: Tensor, codes: Tensor) -> Tensor:
    """Rows of a code book (C, d) by `codes` (...), its mean where they are -1: (..., d)."""
    return torch.where((codes < 0)[..., None], book.mean(0), book[codes.clamp(min=0)])


def _process() -> tuple[int, int]:
    """(rank of this process, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
