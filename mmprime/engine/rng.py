"""Randomness: one generator per example, exact draws.

Seeds of the examples are mixed from one root seed by SplitMix64, so example b gets the same stream whatever the
batch size. A stream has 64 bits: torch's CPU generator (Mersenne Twister) seeds itself from the low 32 bits of a seed
only, so all 624 words of its state are filled here, by SplitMix64 from the whole seed. Uniforms are float64: a float32
uniform truncates tails and silently lowers entropy (arXiv 2409.02908).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Randomness = int | torch.Generator | Sequence[torch.Generator] | None
_MASK64 = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's odd increment, 2^64 / golden ratio
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORDS = 624  # of the Mersenne Twister; in the state they follow seed, (left, seeded) and next, eight bytes each
_HEAD = 3
_BLOCK = 128  # seeds whose states are filled at once: what is in between stays in the cache


def mix(*words: int) -> int:
    """Hash integers to a seed in [0, 2^64) (SplitMix64 finaliser over the words in turn).

    Raises ValueError on a word outside [0, 2^64): it would share its stream with another.
    """
    state = 0
    for word in words:
        state = (state + check_seed(word) + _GAMMA) & _MASK64
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK64
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK64
        state ^= state >> 31
    return state


def check_seed(seed: int) -> int:
    """The seed itself. Raises ValueError outside [0, 2^64)."""
    if not 0 <= seed <= _MASK64:
        raise ValueError(f"seed {seed} is outside [0, 2^64); give a whole number from 0 to {_MASK64}")
    return seed


def seeded(*seeds: int) -> list[torch.Generator]:
    """A CPU generator for each seed; different seeds, different streams. Raises ValueError outside [0, 2^64)."""
    return _streams(torch.tensor([_signed(check_seed(seed)) for seed in seeds], dtype=torch.int64))


def _streams(root: Tensor) -> list[torch.Generator]:
    """The generators of seeds (B,), which are words of 64 bits."""
    steps = torch.tensor([_signed((count * _GAMMA) & _MASK64) for count in range(1, _WORDS + 1)])
    states = torch.Generator().manual_seed(0).get_state().view(torch.int64).repeat(min(len(root), _BLOCK), 1)
    restored = [torch.Generator() for _ in range(len(root))]
    for first in range(0, len(root), _BLOCK):
        block = root[first : first + _BLOCK, None]
        states[: len(block), :1] = block
        states[: len(block), _HEAD : _HEAD + _WORDS] = _finalise(block + steps) & 0xFFFFFFFF
        for generator, state in zip(restored[first : first + _BLOCK], states):
            generator.set_state(state.clone().view(torch.uint8))
    return restored


def generator_of(seed: int) -> torch.Generator:
    """The CPU generator of a seed; see `seeded`."""
    return seeded(seed)[0]


def generators(source: Randomness, batch: int, purpose: int = 0) -> list[torch.Generator]:
    """One CPU generator per example.

    source: a seed in [0, 2^64); a generator (one root seed is drawn from it); a list of `batch` generators, used as
    they are; or None, which takes the root seed from torch's global generator. `purpose` keeps streams of one seed
    apart. Raises ValueError when a list has another length than the batch, or a seed is out of range.
    """
    if source is None or isinstance(source, torch.Generator):
        source = int(torch.empty((), dtype=torch.int64).random_(-(1 << 63), None, generator=source)) & _MASK64
    if isinstance(source, int):
        start = _signed((mix(source, purpose) + _GAMMA) & _MASK64)
        return _streams(_finalise(torch.arange(batch) + start))  # mix(source, purpose, b) of each b
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


def _signed(word: int) -> int:
    """A word of 64 bits as int64 holds it."""
    return word - (1 << 64) if word >> 63 else word


def _finalise(state: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 that stand for words of 64 bits."""
    state = (state ^ _right(state, 30)) * _signed(_FIRST)
    state = (state ^ _right(state, 27)) * _signed(_SECOND)
    return state ^ _right(state, 31)


def _right(state: Tensor, count: int) -> Tensor:
    """The logical shift: zeros come in from the left."""
    return (state >> count) & ((1 << (64 - count)) - 1)


def strata(batch: int, width: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """(B, width) uniforms in [0, 1): each row uniform, the rows of a column spread evenly (antithetic times)."""
    start = torch.rand(1, width, generator=generator, dtype=torch.float64)
    index = torch.stack([torch.randperm(batch, generator=generator) for _ in range(width)], -1) if batch else start[:0]
    return ((start + index / max(batch, 1)) % 1.0).to(device)
