"""How often codes and digits occur in a dataset."""

from __future__ import annotations

import math
from collections import Counter

import torch

from .codes import CodeDataset

_NAMED = 5


def unigram_entropy(counts: torch.Tensor) -> float:
    """H = -Σ p ln p in nats of the frequencies of a histogram (C,)."""
    share = counts[counts > 0].double() / counts.sum()
    return max(0.0, float(-(share * share.log()).sum()))


def histogram(counts: torch.Tensor) -> str:
    """How many codes are used 0 times, once, 2-3 times, 4-7 times, ...

    >>> histogram(torch.tensor([0, 1, 2, 3, 9]))
    '0: 1, 1: 1, 2-3: 2, 8-15: 1'
    """
    octaves = Counter(int(count).bit_length() for count in counts.tolist())
    names = {0: "0", 1: "1"}
    return ", ".join(f"{names.get(o, f'{2 ** (o - 1)}-{2**o - 1}')}: {octaves[o]}" for o in sorted(octaves))


def code_facts(data: CodeDataset) -> list[str]:
    """Lines on the codes (n, L) of a dataset: dead and frequent ones, entropy beside ln C."""
    counts = torch.bincount(data.codes.flatten().long(), minlength=data.num_codes)
    entropy, dead = unigram_entropy(counts), int((counts == 0).sum())
    top, which = counts.sort(descending=True, stable=True)
    frequent = ", ".join(f"{code} ({count / counts.sum():.1%})" for code, count in zip(which[:_NAMED].tolist(), top))
    return [
        f"{len(data)} images of {data.grid[0]}×{data.grid[1]} codes, C = {data.num_codes}",
        f"dead codes: {dead} ({dead / data.num_codes:.1%}); the most frequent code has {top[0] / top.sum():.1%}, "
        f"the ten most frequent {top[:10].sum() / top.sum():.1%} of all tokens",
        f"histogram (times used: codes): {histogram(counts)}",
        f"most frequent codes: {frequent}",
        f"unigram entropy: {entropy:.4f} nats = {entropy / math.log(2):.4f} bits a token "
        f"(perplexity {math.exp(entropy):.1f}), the floor of a model without context",
        f"NELBO of an untrained model: ln C = {math.log(data.num_codes):.4f} nats a token",
    ]


def digit_facts(data: CodeDataset) -> list[str]:
    """Lines on the digits (n, L, S) of a dataset: use and entropy by level, beside ln C."""
    counts = [torch.bincount(data.tokens[..., j].flatten(), minlength=base) for j, base in enumerate(data.radices)]
    entropies = [unigram_entropy(each) for each in counts]
    used = ", ".join(f"{int((each > 0).sum())}/{base}" for each, base in zip(counts, data.radices))
    different = len(torch.unique(data.tokens.flatten(0, 1), dim=0))
    tokens, total, levels = data.tokens.shape[0] * data.tokens.shape[1], sum(entropies), len(data.radices)
    return [
        f"{len(data)} images of {data.grid[0]}×{data.grid[1]} tokens of {levels} digits, "
        f"C = 2^{math.log2(data.num_codes):.2f}",
        f"values used, by level: {used}",
        f"entropy by level, nats: {', '.join(f'{each:.3f}' for each in entropies)}",
        f"different tokens: {different:,} of {tokens:,}",
        f"sum of the entropies: {total:.4f} nats = {total / math.log(2):.4f} bits a token, the floor of a model "
        "without context and with independent digits",
        f"NELBO of an untrained model: ln C = {math.log(data.num_codes):.4f} nats a token",
    ]
