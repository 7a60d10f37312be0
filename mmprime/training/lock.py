"""One process (group) trains in a folder at a time; the lock goes with the process, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RunBusy(RuntimeError):
    """Another process is training in the folder."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory/.lock`` within the block.

    Raises RunBusy if another process holds it, ValueError where the folder or the lock cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = (directory / ".lock").open("w")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ValueError(f"run.dir={directory} cannot be used: {error.strerror}; take another run.dir") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusy(f"another process is training in {directory}; stop it or take another run.dir") from error
        yield
