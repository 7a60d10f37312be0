"""What is in a dataset folder, and what is wrong with it.

For codes the report gives the unigram entropy H = -Σ_c p_c ln p_c beside ln C: an untrained model (uniform over
the C codes) has a NELBO of ln C nats a token, and a model that knows the code frequencies but no context has H.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from .codes import CodeDataset, CodeTokenizer
from .images import decode_image, decode_record, known_image
from .shards import field_of, read_index, read_shard
from .text import read_documents

SHOWN = 5
LONG_CHARACTERS = 1_000_000


class TextCoder(Protocol):
    """What is asked of a text tokenizer."""

    vocab_size: int

    def encode(self, text: str) -> Sequence[int]:
        """Text to ids in [0, vocab_size)."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text."""


@dataclass
class Report:
    """Facts to print and problems to act on; a folder is healthy when `problems` is empty."""

    kind: str
    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def complain(self, what: str, names: Sequence[str]) -> None:
        """Add a problem with its count and the first few names, if there is any name."""
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            self.problems.append(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")

    def __str__(self) -> str:
        found = [f"PROBLEM {problem}" for problem in self.problems] or ["no problems found"]
        return "\n".join([*self.facts, *found])


def check_dataset(
    path: str | Path,
    load_tokenizer: Callable[[str], Any] | None = None,
    long_characters: int = LONG_CHARACTERS,
) -> Report:
    """Read a whole dataset folder and report on it.

    load_tokenizer(kind) gives the tokenizer to compare with ("codes": an image tokenizer, "text": a text tokenizer);
    it is called only for a kind that has one. Raises ValueError only if there is no readable index.
    """
    index = read_index(path)
    kind = index["kind"]
    report = Report(kind, [f"{path}: {kind}, {', '.join(f'{n} {s}' for s, n in index['splits'].items())}"])
    report.facts.append(f"{len(index['shards'])} shards, {sum(e['bytes'] for e in index['shards']):,} bytes")
    if kind == "images":
        _check_images(path, index, report)
    elif _shards_intact(path, index, report):
        tokenizer = load_tokenizer(kind) if load_tokenizer else None
        if kind == "codes":
            _check_codes(path, tokenizer, index, report)
        else:
            _check_text(path, tokenizer, report, long_characters)
    return report


def _shards_intact(path: str | Path, index: dict[str, Any], report: Report) -> bool:
    for entry in index["shards"]:
        try:
            for _ in read_shard(path, entry):
                pass
        except ValueError as error:
            report.problems.append(str(error))
    return not report.problems


def _check_images(path: str | Path, index: dict[str, Any], report: Report) -> None:
    sizes: dict[tuple[int, int], list[str]] = {}
    unreadable: list[str] = []
    uncaptioned: list[str] = []
    captions: dict[str, set[str]] = {}
    seen: Counter[str] = Counter()
    for entry in index["shards"]:
        try:
            for key, files in read_shard(path, entry):
                where = f"{entry['file']}/{key}"
                seen[key] += 1
                try:
                    shape = decode_image(known_image(files, where), where).shape
                    record = decode_record(field_of(files, "json", where), where)
                except ValueError:
                    unreadable.append(where)
                    continue
                sizes.setdefault((shape[1], shape[0]), []).append(where)
                caption = str(record.get("caption", ""))
                captions.setdefault(entry["split"], set()).add(caption)
                if not caption.strip():
                    uncaptioned.append(where)
        except ValueError as error:
            report.problems.append(str(error))
    report.complain("unreadable samples", unreadable)
    report.complain("keys used twice", [key for key, count in seen.items() if count > 1])
    report.complain("images without a caption", uncaptioned)
    usual = max(sizes, key=lambda size: len(sizes[size]), default=(0, 0))
    for size, names in sizes.items():
        if size != usual:
            report.complain(f"images of {size[0]}×{size[1]} px among images of {usual[0]}×{usual[1]}", names)
    report.facts.append(f"{sum(map(len, sizes.values()))} readable images of {usual[0]}×{usual[1]} px")
    report.facts.append(f"{len(set().union(*captions.values()))} different captions")
    report.complain(
        "held-out captions that are also in train",
        sorted(captions.get("val_caption", set()) & captions.get("train", set())),
    )


def unigram_entropy(counts: torch.Tensor) -> float:
    """H = -Σ p ln p in nats of the frequencies of a histogram (C,)."""
    share = counts[counts > 0].double() / counts.sum()
    return max(0.0, float(-(share * share.log()).sum()))


def _check_codes(path: str | Path, tokenizer: CodeTokenizer | None, index: dict[str, Any], report: Report) -> None:
    try:
        data = CodeDataset.load(path)
    except ValueError as error:
        report.problems.append(str(error))
        return
    counts = torch.bincount(data.codes.flatten().long(), minlength=data.num_codes)
    entropy, dead = unigram_entropy(counts), int((counts == 0).sum())
    top = counts.sort(descending=True).values
    report.facts += [
        f"{len(data)} images of {data.grid[0]}×{data.grid[1]} codes, C = {data.num_codes}",
        f"dead codes: {dead} ({dead / data.num_codes:.1%}); the most frequent code has {top[0] / top.sum():.1%}, "
        f"the ten most frequent {top[:10].sum() / top.sum():.1%} of all tokens",
        f"unigram entropy: {entropy:.4f} nats = {entropy / math.log(2):.4f} bits a token "
        f"(perplexity {math.exp(entropy):.1f})",
        f"NELBO of an untrained model: ln C = {math.log(data.num_codes):.4f} nats a token",
        f"tokenizer fingerprint: {data.tokenizer_fingerprint}",
    ]
    if tokenizer is None:
        return
    for name, here, there in (
        ("code book", data.num_codes, int(tokenizer.num_codes)),
        ("grid", data.grid, tuple(tokenizer.grid)),
        ("fingerprint", index["tokenizer_fingerprint"], tokenizer.fingerprint()),
    ):
        if here != there:
            report.problems.append(f"{name} mismatch: the codes were made with {here}, this tokenizer has {there}")


def _check_text(path: str | Path, tokenizer: TextCoder | None, report: Report, long_characters: int) -> None:
    documents = read_documents(path)
    lengths = sorted(len(document.text) for document in documents)
    report.facts.append(
        f"{len(documents)} documents, {sum(lengths):,} characters; shortest {lengths[0]:,}, "
        f"median {lengths[len(lengths) // 2]:,}, longest {lengths[-1]:,}"
    )
    report.complain("empty documents", [d.name for d in documents if not d.text.strip()])
    report.complain(
        f"documents over {long_characters:,} characters", [d.name for d in documents if len(d.text) > long_characters]
    )
    if tokenizer is None:
        return
    counts = torch.zeros(tokenizer.vocab_size, dtype=torch.long)
    outside: list[str] = []
    lossy: list[str] = []
    for document in documents:
        ids = torch.tensor(list(tokenizer.encode(document.text)), dtype=torch.long)
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= tokenizer.vocab_size):
            outside.append(document.name)
            continue
        counts += torch.bincount(ids, minlength=tokenizer.vocab_size)
        expected = document.text.lower() if getattr(tokenizer, "lowercase", False) else document.text
        if tokenizer.decode(ids.tolist()) != expected:
            lossy.append(document.name)
    report.complain(f"documents with ids outside the vocabulary of {tokenizer.vocab_size}", outside)
    report.complain("documents the tokenizer does not give back as they are (unknown pieces)", lossy)
    tokens = int(counts.sum())
    entropy = unigram_entropy(counts) if tokens else 0.0
    report.facts += [
        f"{tokens:,} tokens, {sum(lengths) / max(tokens, 1):.2f} characters a token; "
        f"{int((counts > 0).sum())} of {tokenizer.vocab_size} ids are used",
        f"unigram entropy: {entropy:.4f} nats a token; NELBO of an untrained model: "
        f"ln C = {math.log(tokenizer.vocab_size):.4f}",
    ]
