"""The files of a folder, and what of it is left out and why.

Links are followed, but each folder is read once, under its own name where it has one inside the root, so a link to an
ancestor ends. Endings are compared without case. A folder called `batch.png` is a folder. Left out are hidden names
(`.git`, `.ipynb_checkpoints`, `._x.png`), thumbnail and archive leftovers, links to nothing and what is no regular
file; every one of them is recorded under a reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

NAMED = 3
PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
HIDDEN = "hidden"
AGAIN = "links to folders that are already listed"
NO_TARGET = "links to nothing"
IRREGULAR = "no regular files"
LOCKED = "folders that cannot be opened"
OTHER = "of other kinds"
_LEFTOVERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}

LeftOut = dict[str, list[str]]
"""Names of what is left out, by reason."""


@dataclass(frozen=True)
class Listing:
    """root; files: names relative to it, with `/`, sorted by their parts; left_out: other names, by reason."""

    root: Path
    files: list[str]
    left_out: LeftOut = field(default_factory=dict)

    def paths(self) -> list[Path]:
        """The files as paths."""
        return [self.root / name for name in self.files]

    def note(self) -> str:
        """One line on what was left out, empty if nothing was."""
        return left_out_line(self.root, self.left_out)


def list_folder(folder: str | Path, endings: Collection[str]) -> Listing:
    """The files under `folder` with one of these endings (lower case, with the dot). ValueError if it is none."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{display_name(folder)} is no folder" + ("" if root.exists() else ": nothing is there"))
    files: list[str] = []
    left_out: LeftOut = {}
    seen: set[tuple[int, int]] = set()
    pending, links = [""], list[str]()
    while pending or links:
        if not pending:  # links last, so that a folder is listed under its own name
            links.sort()
            pending.append(links.pop(0))
        name = pending.pop()
        try:
            about = os.stat(root / name)
            if (about.st_dev, about.st_ino) in seen:
                left_out.setdefault(AGAIN, []).append(name)
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(root / name) as entries:
                inside = list(entries)
        except OSError:
            left_out.setdefault(LOCKED, []).append(f"{name}/")
            continue
        for entry in inside:
            path = f"{name}/{entry.name}" if name else entry.name
            reason = _hidden(entry) or _kind(entry, endings)
            if reason == "folder":
                (links if entry.is_symlink() else pending).append(path)
            elif reason == "file":
                files.append(path)
            else:
                left_out.setdefault(reason, []).append(path)
    ordered = {why: sorted(left_out[why], key=_parts) for why in sorted(left_out)}
    return Listing(root, sorted(files, key=_parts), ordered)


def _hidden(entry: os.DirEntry[str]) -> str:
    return HIDDEN if entry.name.startswith(".") or entry.name in _LEFTOVERS else ""


def _kind(entry: os.DirEntry[str], endings: Collection[str]) -> str:
    """ "folder", "file", or why it is left out."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file" if os.path.splitext(entry.name)[1].lower() in endings else OTHER
        os.stat(entry.path)
    except OSError:
        return NO_TARGET
    return IRREGULAR


def _parts(name: str) -> list[str]:
    return name.split("/")


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key that takes runs of digits as numbers.

    >>> sorted(["10", "9", "class 2", "class 11", "class"], key=natural)
    ['9', '10', 'class', 'class 2', 'class 11']
    """
    pieces = re.split("([0-9]+)", name)
    return [(int(piece) if number % 2 else -1, piece * (1 - number % 2)) for number, piece in enumerate(pieces)], name


def display_name(name: str | Path) -> str:
    r"""A file name that can be printed and stored: bytes that are not UTF-8 as `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def few(names: Iterable[str]) -> str:
    """The first names and an ellipsis.

    >>> few(["a", "b", "c", "d"])
    'a, b, c, …'
    """
    listed = [display_name(name) for name in names]
    return ", ".join([*listed[:NAMED], *(["…"] if len(listed) > NAMED else [])])


def left_out_line(folder: str | Path, left_out: LeftOut) -> str:
    """What was left out of a folder and why, with counts and first names; empty if nothing was."""
    reasons = [f"{len(names):,} {why} ({few(names)})" for why, names in left_out.items() if names]
    return f"left out of {display_name(folder)}: {'; '.join(reasons)}" if reasons else ""
