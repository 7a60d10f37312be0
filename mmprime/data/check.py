"""What is in a dataset folder, and what is wrong with it.

For codes the report gives the unigram entropy H = -Σ_c p_c ln p_c beside ln C: an untrained model (uniform over
the C codes) has a NELBO of ln C nats a token, and a model that knows the code frequencies but no context has H: a floor
for models without context, and what a trained one must lie below. Whether the codes mean to a tokenizer what they meant
to the one that made them is tried by `digit_order`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from mmprime.io import parse_json

from .code_counts import code_facts, digit_facts, unigram_entropy
from .codes import CodeDataset, CodeTokenizer
from .digit_order import (
    AS_STORED,
    RENUMBERED,
    Reading,
    agreement,
    digit_readings,
    find_images,
    poor_reconstruction,
    readings,
    restored_psnr,
    survival,
)
from .images import decode_image, known_image
from .shards import field_of, read_index, read_shard
from .text import read_documents
from .tokens import token_blocks

NAMED = 5
LONG_CHARACTERS = 1_000_000
LOOKED_AT = 32  # images whose codes are decoded or encoded again
LEAST_AGREEMENT = 0.98  # rounding differs a little between machines
LEAST_LEAD = 0.05  # of the codes as stored, in survival, over every other reading
LEAST_BYTES = 1.3  # a token of a BPE that fits its text


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
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            self.problems.append(f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}")

    def __str__(self) -> str:
        lines = [f"PROBLEM {problem}" for problem in self.problems] or ["no problems found"]
        return "\n".join([*self.facts, *lines])


def check_dataset(
    path: str | Path,
    load_tokenizer: Callable[[str], Any] | None = None,
    long_characters: int = LONG_CHARACTERS,
    images: str | Path | None = None,
    max_tokens: int | None = None,
    words: TextCoder | None = None,
) -> Report:
    """Read a whole dataset folder and report on it.

    load_tokenizer(kind) gives the tokenizer to compare with ("codes": an image tokenizer, "text": a text tokenizer);
    it is called only for a kind that has one. images: the folder the codes were made of, to encode some again.
    max_tokens: a document of more tokens is over-long, and so is a caption with its end. words: the text tokenizer of
    captions, for codes and images. Raises ValueError if there is no readable index, or for an
    option that needs a tokenizer or another kind of data.
    """
    index = read_index(path)
    kind = index["kind"]
    for name, value, meant in (("images", images, "codes"), ("max_tokens", max_tokens, "text")):
        if name == "max_tokens" and words is not None:
            continue
        if value is not None and (kind != meant or load_tokenizer is None):
            raise ValueError(f"{name} is for {meant} with their tokenizer; {path} holds {kind}")
    report = Report(kind, [f"{path}: {kind}, {', '.join(f'{n} {s}' for s, n in index['splits'].items())}"])
    report.facts.append(f"{len(index['shards'])} shards, {sum(e['bytes'] for e in index['shards']):,} bytes")
    if kind == "images":
        captions = _check_images(path, index, report)
        _check_captions(captions, words, max_tokens, report)
    elif _shards_intact(path, index, report):
        tokenizer = load_tokenizer(kind) if load_tokenizer else None
        if kind == "codes":
            captions = _check_codes(path, tokenizer, index, report, images)
            _check_captions(captions, words, max_tokens, report)
        elif kind == "tokens":
            _check_rows(path, tokenizer, index, report)
        else:
            _check_text(path, tokenizer, report, long_characters, max_tokens)
    return report


def _shards_intact(path: str | Path, index: dict[str, Any], report: Report) -> bool:
    for entry in index["shards"]:
        try:
            for _ in read_shard(path, entry):
                pass
        except ValueError as error:
            report.problems.append(str(error))
    return not report.problems


def _check_captions(captions: set[str], words: TextCoder | None, max_tokens: int | None, report: Report) -> None:
    """How long captions are in tokens with their end, and which of them training cuts."""
    if words is None or not captions:
        return
    needed = {caption: len(words.encode(caption)) + 1 for caption in sorted(captions)}
    lengths = sorted(needed.values())
    report.facts.append(
        f"tokens of a caption and its end: median {lengths[len(lengths) // 2]}, longest {lengths[-1]} "
        f"(data.text_length={lengths[-1]} cuts none)"
    )
    if max_tokens is not None:
        cut = [caption for caption, count in needed.items() if count > max_tokens]
        report.complain(f"captions that data.text_length={max_tokens} cuts", [repr(caption[:60]) for caption in cut])


def _check_images(path: str | Path, index: dict[str, Any], report: Report) -> set[str]:
    sizes: dict[tuple[int, int], list[str]] = {}
    unreadable: list[str] = []
    uncaptioned: list[str] = []
    captions: dict[str, set[str]] = {}
    uses: Counter[str] = Counter()
    for entry in index["shards"]:
        try:
            for key, files in read_shard(path, entry):
                where = f"{entry['file']}/{key}"
                uses[key] += 1
                try:
                    shape = decode_image(known_image(files, where), where).shape
                    record = parse_json(field_of(files, "json", where), where)
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
    report.complain("keys used twice", [key for key, count in uses.items() if count > 1])
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
    return set().union(*captions.values())


def _check_rows(path: str | Path, tokenizer: Any, index: dict[str, Any], report: Report) -> None:
    counts = torch.zeros(index["num_codes"], dtype=torch.int64)
    for entry in index["shards"]:
        try:
            for rows in token_blocks(path, index, entry):
                counts += rows.flatten().bincount(minlength=len(counts))
        except ValueError as error:
            report.problems.append(str(error))
    entropy = unigram_entropy(counts)
    report.facts.append(
        f"rows of {index['length']} tokens; unigram entropy {entropy:.4f} nats, ln C = {math.log(len(counts)):.4f}"
    )
    if tokenizer is not None and tokenizer.fingerprint() != index["tokenizer_fingerprint"]:
        report.problems.append(
            f"made by the tokenizer {index['tokenizer_fingerprint']}, not by the given {tokenizer.fingerprint()}"
        )


def _check_codes(
    path: str | Path,
    tokenizer: CodeTokenizer | None,
    index: dict[str, Any],
    report: Report,
    images: str | Path | None,
) -> set[str]:
    try:
        data = CodeDataset.load(path)
    except ValueError as error:
        report.problems.append(str(error))
        return set()
    captions = set(data.captions)
    report.facts += digit_facts(data) if data.tokens.ndim == 3 else code_facts(data)
    report.facts.append(f"tokenizer fingerprint: {data.tokenizer_fingerprint}")
    if tokenizer is None:
        return captions
    for name, stored, asked in (
        ("code book", data.num_codes, int(tokenizer.num_codes)),
        ("radices", data.radices or tuple(tokenizer.radices), tuple(tokenizer.radices)),
        ("grid", data.grid, tuple(tokenizer.grid)),
        ("fingerprint", index["tokenizer_fingerprint"], tokenizer.fingerprint()),
    ):
        if stored != asked:
            report.problems.append(f"{name} mismatch: the codes were made with {stored}, this tokenizer has {asked}")
    if (data.num_codes, data.grid, data.radices or tuple(tokenizer.radices)) == (
        tokenizer.num_codes, tuple(tokenizer.grid), tuple(tokenizer.radices),
    ):  # fmt: skip
        _check_order(data, tokenizer, images, report)
    return captions


def _check_order(data: CodeDataset, tokenizer: Any, images: str | Path | None, report: Report) -> None:
    """Whether the codes mean to this tokenizer what they meant to the one that made them."""
    what = "tokens" if data.tokens.ndim == 2 else "digits"
    tables: Mapping[str, Reading] = (
        readings(tokenizer.radices, data.num_codes) if what == "tokens" else digit_readings(tokenizer.radices)
    )
    step = max(1, len(data) // LOOKED_AT)
    pick = list(range(0, len(data), step))[:LOOKED_AT]
    if images is not None:
        try:
            numbers, pixels = find_images(images, [data.keys[number] for number in pick])
            if pixels is None:
                raise ValueError(f"none of {len(pick)} keys of the codes, first {data.keys[pick[0]]!r}, is in {images}")
            tokens = data.tokens[[pick[number] for number in numbers]]
            shares = agreement(tokens, pixels, tokenizer, tables)
        except ValueError as error:
            report.problems.append(f"the images cannot be encoded again: {error}")
        else:
            report.facts.append(f"{what} that {len(numbers)} images encoded again agree with: {shares[AS_STORED]:.1%}")
            if shares[AS_STORED] < LEAST_AGREEMENT:
                _complain_of_order(f"of the {what} agree with the images", shares, LEAST_AGREEMENT, report)
            elif hasattr(tokenizer, "decode_tokens"):
                decibels = restored_psnr(tokens, pixels, tokenizer)
                report.facts.append(f"PSNR of {len(numbers)} images: {decibels:.2f} dB")
                report.problems += [problem] if (problem := poor_reconstruction(decibels)) else []
    elif hasattr(tokenizer, "decode"):
        shares = survival(data.tokens[pick], tokenizer, tables)
        others = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if name != AS_STORED)
        report.facts.append(
            f"{what} of {len(pick)} images that survive decoding and encoding: {shares[AS_STORED]:.1%} ({others})"
        )
        lead = shares[AS_STORED] + LEAST_LEAD
        no_better = shares[AS_STORED] < min(shares[RENUMBERED] + LEAST_LEAD, LEAST_AGREEMENT)
        if no_better or any(share >= lead for share in shares.values()):
            _complain_of_order(f"of the {what} survive decoding and encoding", shares, lead, report)


def _complain_of_order(what: str, shares: dict[str, float], enough: float, report: Report) -> None:
    """Name the other reading of digits that fits, if one reaches `enough`; else it is another code book."""
    others = {name: share for name, share in shares.items() if name not in (AS_STORED, RENUMBERED)}
    best = max(others, key=lambda name: others[name], default=AS_STORED)
    if others.get(best, 0.0) >= enough:
        report.problems.append(
            f"bit order mismatch: {shares[AS_STORED]:.1%} {what} as stored, "
            f"{shares[best]:.1%} with {best}; convert the codes or encode the images again"
        )
    else:
        report.problems.append(
            f"code book mismatch: {shares[AS_STORED]:.1%} {what}; another tokenizer made these codes"
        )


def _check_text(
    path: str | Path, tokenizer: TextCoder | None, report: Report, long_characters: int, max_tokens: int | None
) -> None:
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
    train = {document.text for document in documents if document.split == "train"}
    leaked = [d.name for d in documents if d.split != "train" and d.text in train]
    what = "held-out documents that are also in train (the bound is too low by them; keep one of each in your files)"
    report.complain(what, leaked)
    if tokenizer is None:
        return
    counts = torch.zeros(tokenizer.vocab_size, dtype=torch.long)
    outside: list[str] = []
    lossy: list[str] = []
    over_long: list[str] = []
    encoded_bytes = 0
    for document in documents:
        ids = torch.tensor(list(tokenizer.encode(document.text)), dtype=torch.long)
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= tokenizer.vocab_size):
            outside.append(document.name)
            continue
        counts += torch.bincount(ids, minlength=tokenizer.vocab_size)
        encoded_bytes += len(document.text.encode())
        if max_tokens is not None and len(ids) > max_tokens:
            over_long.append(document.name)
        expected = document.text.lower() if getattr(tokenizer, "lowercase", False) else document.text
        if tokenizer.decode(ids.tolist()) != expected:
            lossy.append(document.name)
    report.complain(f"documents with ids outside the vocabulary of {tokenizer.vocab_size}", outside)
    report.complain("documents the tokenizer does not give back as they are (unknown pieces)", lossy)
    report.complain(f"documents over {max_tokens} tokens", over_long)
    tokens = int(counts.sum())
    entropy = unigram_entropy(counts) if tokens else 0.0
    if tokenizer.vocab_size > 512 and tokens > encoded_bytes / LEAST_BYTES:
        report.problems.append(
            f"vocabulary mismatch: {encoded_bytes / tokens:.2f} bytes a token with {tokenizer.vocab_size} ids, so most "
            "tokens are single bytes; the tokenizer was made for other text"
        )
    report.facts += [
        f"{tokens:,} tokens, {sum(lengths) / max(tokens, 1):.2f} characters a token; "
        f"{int((counts > 0).sum())} of {tokenizer.vocab_size} ids are used",
        f"unigram entropy: {entropy:.4f} nats a token = {entropy * tokens / math.log(2) / max(encoded_bytes, 1):.4f} "
        f"bits a byte, the floor of a model without context; NELBO of an untrained model: "
        f"ln C = {math.log(tokenizer.vocab_size):.4f} nats a token",
    ]
