"""Code vectors from what stands with what: PPMI followed by a truncated SVD.

    PPMI(a, c) = max(0, log p(a, c) / (p(a) p_s(c))),    p_s(c) ∝ count(c)^0.75

where c is a context: (axis, offset, neighbour), or whatever else the counts are of. Rows of U·sqrt(Σ) are the vectors.
Source: Levy & Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", 2014 (context smoothing: Levy,
Goldberg & Dagan, 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmprime.engine.rng import generator_of


def ppmi_vectors(
    sequences: Tensor, num_codes: int, dim: int = 64, offsets: tuple[int, ...] = (1, 2), seed: int = 0
) -> Tensor:
    """Codes (n, L) of text or (n, h, w) of images -> one vector a code (C, min(dim, C)), rows scaled to unit length.

    Codes that never occur get the zero vector. Raises ValueError on codes outside [0, C).
    """
    if sequences.numel() == 0 or int(sequences.min()) < 0 or int(sequences.max()) >= num_codes:
        raise ValueError(f"sequences of shape {tuple(sequences.shape)} must hold codes in [0, {num_codes - 1}]")
    rows, columns = _neighbours(sequences.long(), num_codes, offsets)
    contexts = 2 * len(offsets) * (sequences.ndim - 1) * num_codes
    pairs, counts = torch.unique(rows * contexts + columns, return_counts=True)
    cells = torch.stack([pairs // contexts, pairs % contexts])
    table = torch.sparse_coo_tensor(cells, counts.double(), (num_codes, contexts), check_invariants=True)
    return count_vectors(table.coalesce(), dim, seed)


def count_vectors(counts: Tensor, dim: int = 64, seed: int = 0) -> Tensor:
    """Counts or masses (C, contexts), dense or sparse -> (C, min(dim, C)), as `ppmi_vectors`."""
    counts = counts.double().to_sparse().coalesce()
    (row, column), count = counts.indices(), counts.values()
    num_codes, contexts = counts.shape
    row_total = torch.zeros(num_codes, dtype=torch.float64).index_add_(0, row, count)
    column_total = torch.zeros(contexts, dtype=torch.float64).index_add_(0, column, count).pow(0.75)
    pmi = (count / row_total[row]).log() - (column_total[column] / column_total.sum()).log()
    positive = pmi > 0
    matrix = torch.sparse_coo_tensor(
        torch.stack([row[positive], column[positive]]),
        pmi[positive].float(),
        (num_codes, contexts),
        check_invariants=True,
    ).coalesce()
    with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global stream; leave it as it was
        torch.set_rng_state(generator_of(seed).get_state())
        u, s, _ = torch.svd_lowrank(matrix, q=min(dim, num_codes), niter=4)
    return torch.nn.functional.normalize(u * s.sqrt(), dim=-1)


def _neighbours(sequences: Tensor, num_codes: int, offsets: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """All (code, context) pairs; a context is (axis, signed offset, neighbouring code)."""
    rows, columns, block = [], [], 0
    for axis in range(1, sequences.ndim):
        for offset in offsets:
            length = sequences.shape[axis] - offset
            if length > 0:
                left = sequences.narrow(axis, 0, length).reshape(-1)
                right = sequences.narrow(axis, offset, length).reshape(-1)
                rows += [left, right]
                columns += [right + block * num_codes, left + (block + 1) * num_codes]
            block += 2
    if not rows:
        raise ValueError(f"sequences of shape {tuple(sequences.shape)} are too short for offsets {offsets}")
    return torch.cat(rows), torch.cat(columns)
