"""Files that are whole or absent: written under a temporary name beside their own, then renamed; text files read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The temporary path to write to; it becomes `path` when the block ends well and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file, without a byte order mark.

    Raises ValueError naming the file, the first byte that is no UTF-8 (or NUL: a binary file, or UTF-16 without a mark)
    and the way out.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        coding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise ValueError(
            f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at position {error.start} (from 0, line "
            f"{data[: error.start].count(10) + 1}); if it is "
            f"{coding}, convert it: iconv -f {coding} -t UTF-8 {path.name} > new.txt"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{path} has a NUL byte at position {data.index(0)} (from 0), so it is no text: a binary file, UTF-16 "
            f"without its mark (iconv -f UTF-16LE -t UTF-8 {path.name} > new.txt), or to be cleaned (tr -d '\\000')"
        )
    return text


def split_lines(text: str) -> list[str]:
    r"""Lines of a text, ended by \n, \r\n or \r and by nothing else (`str.splitlines` also cuts at U+2028, U+0085, form
    feeds and separators, which stand inside sentences and inside JSON strings).

    >>> split_lines("a\u2028b\r\nc\n")
    ['a\u2028b', 'c']
    """
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]
