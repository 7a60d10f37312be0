"""Randomness: one generator per example, exact draws.

Seeds of the examples are mixed from one root seed by SplitMix64, so example b gets the same stream whatever the
batch size. Uniforms are float64: a float32 uniform truncates tails and silently lowers entropy (arXiv 2409.02908).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Randomness = int | torch.Generator | Sequence[torch.Generator] | None
_MASK64 = (1 << 64) - 1


def mix(*words: int) -> int:
    """Hash integers to a seed in [0, 2^63) (SplitMix64 finaliser over the words in turn)."""
    state = 0
    for word in words:
        state = (state + (word & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def generators(source: Randomness, batch: int, purpose: int = 0) -> list[torch.Generator]:
    """One CPU generator per example.

    source: a seed; a generator (one root seed is drawn from it); a list of `batch` generators, used as they are; or
    None, which takes the root seed from torch's global generator. `purpose` keeps streams of one seed apart.
    Raises ValueError when a list has another length than the batch.
    """
    if source is None or isinstance(source, torch.Generator):
        source = int(torch.randint(1 << 62, (), generator=source))
    if isinstance(source, int):
        return [torch.Generator().manual_seed(mix(source, purpose, b)) for b in range(batch)]
    if len(source) != batch:
        raise ValueError(f"{len(source)} generators for a batch of {batch}; give one for each example")
    return list(source)


def uniforms(streams: Sequence[torch.Generator], width: int) -> Tensor:
    """(B, width) float64 uniforms in [0, 1), row b from stream b."""
    if not streams:
        return torch.empty(0, width, dtype=torch.float64)
    return torch.stack([torch.rand(width, generator=g, dtype=torch.float64) for g in streams])


def categorical(weights: Tensor, u: Tensor) -> Tensor:
    """Exact inverse CDF: weights (M, K) >= 0 in float64, not normalised; u (M,) in [0, 1) -> index (M,).

    An entry of weight zero is never drawn.
    """
    cdf = weights.cumsum(-1)
    total = cdf[:, -1:]
    target = torch.minimum(u[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target, right=True)[:, 0]
