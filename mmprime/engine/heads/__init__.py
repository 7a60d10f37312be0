"""Heads: the distribution of a token's masked digits given its visible ones, one a file."""

from collections.abc import Callable, Mapping

from .base import DigitQuery, Head, NonFiniteLogits, Request, SampledDigits, Tokens
from .chain import ChainHead
from .factored import FactoredHead
from .softmax import SoftmaxHead

HEADS: Mapping[str, Callable[[], Head]] = {"softmax": SoftmaxHead, "factored": FactoredHead, "chain": ChainHead}

__all__ = [
    "HEADS",
    "ChainHead",
    "DigitQuery",
    "FactoredHead",
    "Head",
    "NonFiniteLogits",
    "Request",
    "SampledDigits",
    "SoftmaxHead",
    "Tokens",
    "head_of",
]  # fmt: skip


def head_of(name: str, rounds: int | None = None) -> Head:
    """The head of a name; rounds are of "chain" only. Raises ValueError on another name, or rounds where there are
    none."""
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; there are {', '.join(HEADS)}")
    if rounds is not None and name != "chain":
        raise ValueError(f"rounds={rounds} is for the head 'chain', not {name!r}")
    return ChainHead(rounds) if name == "chain" else HEADS[name]()
