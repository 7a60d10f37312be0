"""Captions of pictures in files: `NAME.txt` beside a picture, `metadata.jsonl` or `metadata.csv` of a folder.

The metadata files are those of the imagefolder convention of Hugging Face datasets: rows with `file_name`, relative to
the metadata file, and `text` (or `caption`). A picture may have several captions: several rows, a list, or one caption
a line of its NAME.txt. `null`, an empty list and blank text are no caption.
"""

from __future__ import annotations

import csv
import io
import posixpath
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmprime.io import parse_json, read_text, split_lines

from .folders import OTHER, LeftOut, display_name

METADATA = ("metadata.jsonl", "metadata.csv")
KEYS = ("text", "caption")
UNNAMED = "names in the metadata without a picture"
WITHOUT_PICTURE = "caption files without a picture"


@dataclass(frozen=True)
class Captions:
    """by_picture: the different captions by the name of a picture; left_out: what is for no picture."""

    by_picture: dict[str, list[str]]
    left_out: LeftOut = field(default_factory=dict)


def find_captions(root: Path, pictures: list[str], others: list[str]) -> Captions:
    """The written captions of pictures of a folder, from the `others` of its files.

    left_out holds the rest of `others` too. Raises ValueError for a malformed file, naming its line, and when metadata
    names none of the pictures.
    """
    by_picture: dict[str, list[str]] = {}
    left_out: LeftOut = {}
    tables = [name for name in others if posixpath.basename(name).lower() in METADATA]
    lookup = {_normal(name): name for name in reversed(pictures)}
    for table in tables:
        for wanted, captions in read_metadata(root / table):
            name = _resolve(posixpath.dirname(table), wanted, lookup)
            if name is None:
                left_out.setdefault(UNNAMED, []).append(wanted)
            else:
                by_picture.setdefault(name, []).extend(captions)
    if tables and not by_picture and UNNAMED in left_out:
        raise ValueError(
            f"{display_name(root / tables[0])} names {len(left_out[UNNAMED])} files, none of them among the "
            f"{len(pictures)} pictures there; the first: {left_out[UNNAMED][0]!r}"
        )
    notes = {_stem(name): name for name in reversed(others) if name.lower().endswith(".txt")}
    used = set(tables)
    for picture in pictures:
        note = notes.get(_stem(picture))
        if note is not None:
            used.add(note)
            by_picture.setdefault(picture, []).extend(read_note(root / note))
    for name in others:
        if name not in used:
            why = WITHOUT_PICTURE if name.lower().endswith(".txt") else OTHER
            left_out.setdefault(why, []).append(name)
    return Captions({name: list(dict.fromkeys(captions)) for name, captions in by_picture.items()}, left_out)


def read_note(path: Path) -> list[str]:
    """The captions of a NAME.txt: its lines, by \\n or \\r, blanks joined. Raises ValueError unless UTF-8."""
    captions = (" ".join(line.split()) for line in split_lines(read_text(path)))
    return [caption for caption in captions if caption]


def read_metadata(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file_name, captions) of each row. Raises ValueError naming file and line of what is malformed."""
    return _jsonl(path) if path.suffix.lower() == ".jsonl" else _csv(path)


def _jsonl(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(split_lines(read_text(path)), 1):
        if not line.strip():
            continue
        where = f"{display_name(path)}:{number}"
        yield _row(parse_json(line, where), where)


def _csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        for row in reader:
            where = f"{display_name(path)}:{reader.line_num}"
            if None in row:
                raise ValueError(f"{where}: more fields than the header has; quote a text that holds a comma")
            yield _row(row, where)
    except csv.Error as error:
        raise ValueError(f"{display_name(path)}:{reader.line_num}: not CSV: {error}") from error


def _row(row: dict[str, Any], where: str) -> tuple[str, list[str]]:
    key = next((key for key in KEYS if key in row), None)
    name = row.get("file_name")
    if key is None or not isinstance(name, str) or not name:
        raise ValueError(f"{where}: need file_name and {' or '.join(KEYS)}, got {', '.join(map(repr, row))[:80]}")
    value = row[key]
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: {key} must be a text, a list of texts or null, got {value!r:.80}")
    try:
        "".join([name, *texts]).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: half a surrogate pair is no character: {error}") from error
    return name, [text.strip() for text in texts if text.strip()]


def _resolve(folder: str, wanted: str, lookup: dict[str, str]) -> str | None:
    """The picture a row of the metadata in `folder` names: as written, else with `\\` for `/`."""
    for name in (wanted, wanted.replace("\\", "/")):
        picture = lookup.get(_normal(posixpath.join(folder, name)))
        if picture is not None:
            return picture
    return None


def _normal(name: str) -> str:
    """Without `./` and `..`, accents composed."""
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]
