"""Rows of token ids: a text dataset tokenised once, so that no start of a run does it again.

KEY.tokens.npy  (m, L) int16 or int32: rows of documents, each followed by the end token, joined and cut

The documents of one shard are joined, so what is lost is the last, partial row of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .building import build_dataset
from .codes import array_of, npy
from .shards import Entry, Unit, digest, read_index, read_shard
from .storage import RETRIES
from .text import pack_documents, shard_documents

PACKED_ROWS = 4096


class RowTokenizer(Protocol):
    """What is asked of a text tokenizer."""

    vocab_size: int
    end_id: int

    def encode(self, text: str) -> Sequence[int]:
        """Text to ids in [0, vocab_size)."""

    def fingerprint(self) -> str:
        """A hash of everything that decides the ids."""


def token_blocks(
    path: str | Path, index: dict[str, Any], entry: dict[str, Any], retries: int = RETRIES
) -> Iterator[Tensor]:
    """Rows (m, L) int32 of one verified shard, in its order. Raises ValueError for a shape or an id out of range."""
    rows = 0
    for key, files in read_shard(path, entry, retries):
        where = f"{entry['file']}: {key}"
        block = array_of(files, "tokens.npy", where)
        if block.ndim != 2 or block.shape[1] != index["length"]:
            raise ValueError(f"{where} has rows of shape {block.shape}, expected (m, {index['length']})")
        if block.size and (block.min() < 0 or block.max() >= index["num_codes"]):
            raise ValueError(f"{where} has ids in [{block.min()}, {block.max()}], allowed [0, {index['num_codes']})")
        rows += len(block)
        yield torch.from_numpy(block.astype(np.int32))
    if rows != entry["examples"]:
        raise ValueError(f"{entry['file']} packs {rows} rows, its index says {entry['examples']}")


def prepare_tokens(
    source: str | Path, tokenizer: RowTokenizer, length: int, out: str | Path, progress: bool = False
) -> dict[str, Any]:
    """Tokenise a text dataset shard by shard into rows of `length`; return the index.

    Raises ValueError for a damaged source, and for a shard that does not fill one row.
    """
    index = read_index(source, "text")
    dtype = np.int16 if tokenizer.vocab_size <= 2**15 else np.int32

    def maker(entry: dict[str, Any], name: str) -> Callable[[], Iterable[tuple[str, Entry]]]:
        def make() -> Iterator[tuple[str, Entry]]:
            texts = [document.text for document in shard_documents(source, entry)]
            rows = pack_documents(texts, tokenizer.encode, tokenizer.end_id, length)
            for number, part in enumerate(rows.split(PACKED_ROWS)):
                files = {"tokens.npy": npy(part.numpy().astype(dtype))}
                yield entry["split"], Entry(f"{name}_{number:06d}", files, len(part))

        return make

    units = []
    for entry in index["shards"]:
        name = entry["file"].partition(".")[0]
        recipe = digest("tokens 1", tokenizer.fingerprint(), str(length), entry["sha256"])
        units.append(Unit(name, recipe, maker(entry, name)))
    header: dict[str, Any] = {
        "num_codes": tokenizer.vocab_size,
        "length": length,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        **{key: index[key] for key in ("name", "sources", "licences") if key in index},
    }
    return build_dataset(out, "tokens", units, header, progress)
