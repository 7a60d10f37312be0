"""Balanced hierarchical k-means: the digits of a clustered codec.

Level j splits every cluster of level j - 1 into b_j clusters of at most b_{j+1} * ... * b_S members each (Lloyd's
iteration with a capacity-bound assignment), so that the path of a code through the tree is its row of digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rng import generator_of

_ITERATIONS = 12


def balanced_hierarchy(vectors: Tensor, radices: tuple[int, ...], seed: int = 0) -> Tensor:
    """Vectors (C, d) -> digits (C, S) in the given radices. Raises ValueError on non-finite vectors."""
    if vectors.ndim != 2 or not torch.isfinite(vectors).all():
        raise ValueError(f"clustering needs finite vectors of shape (codes, d), got {tuple(vectors.shape)}")
    points = vectors.detach().to("cpu", torch.float32)
    digits = torch.zeros(len(points), len(radices), dtype=torch.int64)
    generator = generator_of(seed)
    _split(points, torch.arange(len(points)), radices, 0, digits, generator)
    return digits


def _split(
    points: Tensor,
    members: Tensor,
    radices: tuple[int, ...],
    level: int,
    digits: Tensor,
    generator: torch.Generator,
) -> None:
    if level == len(radices) - 1:
        digits[members, level] = torch.arange(len(members))
        return
    capacity = math.prod(radices[level + 1 :])
    labels = balanced_kmeans(points[members], radices[level], capacity, generator)
    digits[members, level] = labels
    for cluster in range(radices[level]):
        inside = members[labels == cluster]
        if len(inside):
            _split(points, inside, radices, level + 1, digits, generator)


def balanced_kmeans(points: Tensor, clusters: int, capacity: int, generator: torch.Generator) -> Tensor:
    """Labels (n,) of k-means in which no cluster holds more than `capacity` points."""
    if clusters * capacity < len(points):
        raise ValueError(f"{clusters} clusters of {capacity} cannot hold {len(points)} points")
    clusters_used = min(clusters, len(points))
    centres = points[torch.randperm(len(points), generator=generator)[:clusters_used]]
    labels = _assign(points, centres, capacity)
    for _ in range(_ITERATIONS):
        counts = torch.bincount(labels, minlength=clusters_used).clamp(min=1)
        centres = torch.zeros_like(centres).index_add_(0, labels, points) / counts[:, None]
        updated = _assign(points, centres, capacity)
        if torch.equal(updated, labels):
            break
        labels = updated
    return labels


def _assign(points: Tensor, centres: Tensor, capacity: int) -> Tensor:
    """Each open point asks for its nearest centre with room; a centre takes its nearest askers; repeat."""
    distance = torch.cdist(points, centres)
    labels = torch.full((len(points),), -1, dtype=torch.int64)
    room = torch.full((len(centres),), capacity, dtype=torch.int64)
    while (labels < 0).any():
        open_points = (labels < 0).nonzero()[:, 0]
        wish_distance, wish = distance[open_points].masked_fill(room == 0, math.inf).min(-1)
        order = torch.argsort(wish_distance, stable=True)
        order = order[torch.argsort(wish[order], stable=True)]  # by centre, nearest first
        chosen = wish[order]
        starts = torch.searchsorted(chosen, torch.arange(len(centres)))
        position = torch.arange(len(order)) - starts[chosen]
        accepted = position < room[chosen]
        labels[open_points[order[accepted]]] = chosen[accepted]
        room -= torch.bincount(chosen[accepted], minlength=len(centres))
    return labels
