"""How varied texts are: what stands beside a generative perplexity, so that repetition cannot pass for quality.

A text is a sequence of units, whitespace words or token ids; N_n is its number of n-grams, D_n of different ones.

    entropy of a text      H = -Σ_u p_u ln p_u, p the frequencies in that text (arXiv 2409.02908); at most ln N_1
    entropy of all texts   the same of all units together; at most ln of the number of different units
    distinct-n             |∪_i n-grams of text i| / Σ_i N_n,i   (arXiv 1510.03055): depends on how much text there is
    repetition-n           Σ_i (N_n,i - D_n,i) / Σ_i N_n,i: the share of n-grams already seen in the same text
    longest repeat         the largest r for which some r-gram stands at two places of a text (they may overlap)

Entropies of samples lie below those of the source, more so in short texts, so compare texts of equal length and number.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch

from ..likelihood import ratio

ORDERS = (1, 2, 3, 4)
Units = Sequence[Hashable]


@dataclass(frozen=True)
class Diversity:
    """Of a number of texts; (value, standard error), the error None where there is no honest one.

    entropy: nats, mean over texts that hold a unit. pooled_entropy: nats. distinct, repetition: by n.
    longest_repeat: units, mean over texts. units: how many all texts hold.
    """

    entropy: tuple[float, float | None]
    pooled_entropy: float
    distinct: dict[int, float]
    repetition: dict[int, tuple[float, float | None]]
    longest_repeat: tuple[float, float | None]
    units: int


def words(text: str) -> list[str]:
    """Whitespace words."""
    return text.split()


def diversity(texts: Sequence[Units], orders: Iterable[int] = ORDERS) -> Diversity:
    """All of it, for texts as sequences of units. An order longer than every text is left out.

    Raises ValueError when no text holds a unit, or an order is below 1.
    """
    orders = list(orders)
    if any(n < 1 for n in orders):
        raise ValueError(f"n-grams have at least one unit, got n in {orders}")
    held = [text for text in texts if len(text)]
    if not held:
        raise ValueError(f"{len(texts)} texts without a single word: nothing to measure")
    orders = [n for n in orders if max(map(len, held)) >= n]
    return Diversity(
        _mean([entropy(text) for text in held]),
        entropy([unit for text in held for unit in text]),
        {n: distinct(held, n) for n in orders},
        {n: repetition(held, n) for n in orders},
        _mean([float(longest_repeat(text)) for text in held]),
        sum(map(len, held)),
    )


def entropy(units: Iterable[Hashable]) -> float:
    """H = -Σ_u p_u ln p_u in nats of the frequencies of units.

    >>> round(entropy("aabb"), 6) == round(math.log(2), 6)
    True
    """
    counts = Counter(units)
    total = sum(counts.values())
    return sum(count / total * math.log(total / count) for count in counts.values())


def ngrams(units: Units, n: int) -> list[tuple[Hashable, ...]]:
    """The N - n + 1 runs of n units, in order."""
    return [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]


def distinct(texts: Sequence[Units], n: int) -> float:
    """Different n-grams of all texts / all n-grams. Raises ValueError when no text has one."""
    every = [gram for text in texts for gram in ngrams(text, n)]
    if not every:
        raise ValueError(f"no text has {n} units")
    return len(set(every)) / len(every)


def repetition(texts: Sequence[Units], n: int) -> tuple[float, float | None]:
    """The share of n-grams already seen in the same text, over all texts, and its standard error (over texts)."""
    rows = [(len(grams), len(set(grams))) for grams in (ngrams(text, n) for text in texts) if grams]
    if not rows:
        raise ValueError(f"no text has {n} units")
    counts = torch.tensor(rows, dtype=torch.float64)
    return ratio(counts[:, 0] - counts[:, 1], counts[:, 0])


def longest_repeat(units: Units) -> int:
    """The largest r for which an r-gram stands at two places; 0 when all units differ.

    >>> longest_repeat("abcXabc"), longest_repeat("aaaa"), longest_repeat("abc")
    (3, 3, 0)
    """
    low, high = 0, max(0, len(units) - 1)  # a repeated r-gram holds a repeated (r-1)-gram, so bisect
    while low < high:
        middle = (low + high + 1) // 2
        grams = ngrams(units, middle)
        low, high = (middle, high) if len(set(grams)) < len(grams) else (low, middle - 1)
    return low


def shuffled(text: str, seed: int = 0) -> str:
    """The words of a text in random order, one blank between: same words, no grammar."""
    order = text.split()
    random.Random(seed).shuffle(order)
    return " ".join(order)


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
