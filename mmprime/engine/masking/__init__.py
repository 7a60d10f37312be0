"""Masking processes: which sub-tokens are masked together, and in which order they are revealed.

independent (MDM-Prime), token_synchronous (MDM), nested (HDLM), coarse_first; one file each, the same methods.
"""

from .base import Masking, Reveals, mask_by_count
from .coarse_first import CoarseFirstMasking
from .independent import IndependentMasking
from .nested import NestedMasking
from .token import TokenMasking
from .transition import corrupt, partial_states, transition_matrix

MASKINGS: dict[str, type[Masking]] = {
    process.name: process for process in (IndependentMasking, NestedMasking, TokenMasking, CoarseFirstMasking)
}


def masking_of(masking: str | Masking) -> Masking:
    """The masking process of that name, with its defaults; an object as it is. Raises ValueError on unknown names."""
    if isinstance(masking, Masking):
        return masking
    if masking not in MASKINGS:
        raise ValueError(f"unknown masking {masking!r}; there are {', '.join(MASKINGS)}")
    return MASKINGS[masking]()


__all__ = [
    "MASKINGS", "CoarseFirstMasking", "IndependentMasking", "Masking", "NestedMasking", "Reveals", "TokenMasking",
    "corrupt", "mask_by_count", "masking_of", "partial_states", "transition_matrix",
]  # fmt: skip
