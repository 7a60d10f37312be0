"""Plain text as documents: files, folders of files, JSON lines.

A document is a file, a paragraph or a line; of a `.jsonl` file it is the field "text" of a line. Lines end at LF, CRLF
or CR. Folders are searched to any depth, links to folders included; what is left out is said by :meth:`Plain.left_out`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmprime.io import parse_json, read_text, split_lines

from .folders import few, list_folder
from .shards import INDEX, PARTIAL, digest

SUFFIXES = (".txt", ".md", ".text", ".jsonl")
UNITS = ("file", "paragraph", "line")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class Document:
    """A text, the name it has in its source, and what is known about it."""

    name: str
    text: str
    about: dict[str, Any] = field(default_factory=dict)
    split: str = "train"


@dataclass(frozen=True)
class Plain:
    """Documents of plain text; how many blank ones were left out, and how many files, by the reason."""

    documents: list[Document]
    blank: int
    passed_over: Counter[str]

    def left_out(self) -> str:
        """What was left out and why, as one line; "" if nothing was."""
        parts = [f"{count:,} {what}" for what, count in sorted(self.passed_over.items())]
        if self.blank:
            parts.append(f"{self.blank:,} blank document{'s' if self.blank > 1 else ''}")
        return f"left out: {'; '.join(parts)}" if parts else ""


def read_plain(paths: Sequence[str | Path], per: str = "file") -> Plain:
    """Documents of text files and of folders, which are searched for .txt, .md, .text and .jsonl (in any case).

    per: a document is a "file", a "paragraph" (blank lines between) or a "line"; a line of a .jsonl file is one always.
    Raises ValueError for a missing path, a folder without text, bytes that are not UTF-8, JSON lines without a "text"
    that is a string, an unknown `per`.
    """
    if per not in UNITS:
        raise ValueError(f"a document is a file, paragraph or line, not {per!r}")
    documents: list[Document] = []
    blank, passed_over = 0, Counter[str]()
    for root in map(Path, paths):
        if not root.exists():
            raise ValueError(f"{root} does not exist")
        files = [root]
        if root.is_dir():
            files, others = find_texts(root)
            passed_over += others
            if not files:
                rest = f"; there are {', '.join(f'{n} {what}' for what, n in others.items())}" if others else ""
                raise ValueError(f"{root} holds no text files ({', '.join(SUFFIXES)}){rest}")
        for file in files:
            name = file.relative_to(root).as_posix() if root.is_dir() else file.name
            alone = per == "file" and file.suffix.lower() != ".jsonl"
            for number, piece in enumerate(_pieces(file, per)):
                if piece.strip():
                    documents.append(Document(name if alone else f"{name}-{number:07d}", piece))
                else:
                    blank += 1
    return Plain(documents, blank, passed_over)


def find_texts(root: Path) -> tuple[list[Path], Counter[str]]:
    """Text files below a folder, sorted, and the number of other entries by what they are, with the first names."""
    listing = list_folder(root, SUFFIXES)
    return listing.paths(), Counter({f"{why} ({few(names)})": len(names) for why, names in listing.left_out.items()})


def _pieces(file: Path, per: str) -> list[str]:
    """The documents of a file, blank ones among them; a blank one where there would be none."""
    text = read_text(file)
    if file.suffix.lower() == ".jsonl":
        pieces = list(_json_texts(file, text))
    else:
        pieces = {"line": split_lines, "paragraph": split_paragraphs}.get(per, lambda whole: [whole])(text)
    return pieces or [""]


def split_paragraphs(text: str) -> list[str]:
    """Parts of a text with blank lines between them, their own lines as they are; none of them blank."""
    parts = _BLANK_LINES.split("\n" + "\n".join(split_lines(text)))
    return [part.strip("\n") for part in parts if part.strip()]


def _json_texts(file: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{file}:{number}")
        if not isinstance(row.get("text"), str):
            raise ValueError(f'{file}:{number}: a line must be {{"text": "..."}}, got {line[:60]!r}')
        if any("\ud800" <= letter <= "\udfff" for letter in row["text"]):
            raise ValueError(f"{file}:{number}: half a surrogate pair, which is no text, in {line[:60]!r}")
        yield row["text"]


def is_plain(path: str | Path) -> bool:
    """Whether `path` is a text file or a folder of them, rather than a dataset folder."""
    path = Path(path)
    if any((path / name).exists() for name in (INDEX, PARTIAL)):
        return False
    return path.is_file() or (path.is_dir() and bool(find_texts(path)[0]))


def plain_splits(path: str | Path) -> list[str]:
    """The splits of plain text: one, named after the file or folder."""
    path = Path(path).resolve()
    return [path.stem if path.is_file() else path.name]


def plain_hash(path: str | Path) -> str:
    """16 hex digits of the SHA-256 of plain text: names and contents of its documents, as read. Raises ValueError."""
    documents = read_plain([path]).documents
    return digest(*[part for document in documents for part in (document.name, document.text)])[:16]
