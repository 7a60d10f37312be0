"""The one home of atomic writes and of file hashes: a file or folder appears whole under its name, or not at all.

What is being written lies beside its target under a temporary name, ``.NAME.PID.tmp.EXT``; it is flushed to the disk
and renamed. A killed process leaves only such temporary names behind, which :func:`clear_leftovers` removes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.[^.]+)?")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The temporary path to write to; it becomes `path` when the block ends well and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path, manifest: str = "config.json") -> Iterator[Path]:
    """The temporary folder to fill; it becomes `path` when the block ends well and is removed when it does not.

    Where `path` is a folder already, its files are replaced one by one, `manifest`, which holds the hashes of others,
    last; what else lies in it stays.
    """
    path = Path(path).resolve()
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        files = sorted((f for f in temporary.rglob("*") if f.is_file()), key=lambda f: (f.name == manifest, f))
        for file in files:
            flush(file)
        flush(temporary)
        if path.is_dir():
            for file in files:
                target = path / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
            flush(path)
        else:
            os.replace(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_folder(path: Path) -> None:
    """Remove a folder; killed on the way, what is left bears a temporary name and not the folder's."""
    temporary = _temporary(path)
    os.replace(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path) -> list[Path]:
    """Remove what killed writers left in `folder` (not below it); returns the paths that are gone.

    Only the one process that writes there may call this.
    """
    found = [entry for entry in sorted(folder.glob(".*")) if _TEMPORARY.fullmatch(entry.name)]
    for entry in found:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return [entry for entry in found if not entry.exists()]


def sha256(*paths: str | Path) -> str:
    """64 hex digits: the SHA-256 of the files' contents, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Ask the system to put a file, or the names in a folder, on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
