"""A run's folder from its first second: who writes there, with what config, code and command, and what was printed.

One process (group) trains in a folder at a time; the lock goes with the process, however it ends.

    config.yaml     every value of the config          versions.json   Python, packages, platform; git commit, dirty
    command.txt     one line a start                   log.txt         what is printed, without progress bars

config.yaml and versions.json are of the last start that went on (or the first that was tried).
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from mmprime.io import clear_leftovers, write_text

from .config import as_yaml
from .config_checks import PROJECT
from .schema import Config

PACKAGES = ("mmprime", "torch", "numpy", "safetensors", "tokenizers", "omegaconf")


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


class RunFolder:
    """The folder of ``config.run.dir``, held by this process alone; see :func:`opened`."""

    def __init__(self, config: Config) -> None:
        self.config, self.directory = config, Path(config.run.dir)

    def describe(self) -> None:
        """Write config.yaml and versions.json."""
        write_text(self.directory / "config.yaml", as_yaml(self.config))
        write_text(self.directory / "versions.json", json.dumps(environment(), indent=1) + "\n")

    def clear_leftovers(self) -> None:
        """Remove what killed writers left, with a line."""
        parts = (self.directory, self.directory / "checkpoints", self.directory / "codecs", self.directory / "samples")
        leftovers = [path for part in parts for path in clear_leftovers(part)]
        if leftovers:
            names = ", ".join(path.name for path in leftovers[:3]) + (", ..." if len(leftovers) > 3 else "")
            print(f"cleared {len(leftovers)} unfinished files or folders of a killed process: {names}", flush=True)


@contextmanager
def opened(config: Config) -> Iterator[RunFolder]:
    """Hold the run's folder within the block and copy what is printed to log.txt. Of several processes the first does.

    Raises RunBusy if another process trains there.
    """
    folder = RunFolder(config)
    main = os.environ.get("RANK", "0") == "0"
    with locked(folder.directory) if main else nullcontext():
        if not main:
            yield folder
            return
        log = _Log(folder.directory / "log.txt")
        with _copied(log):
            start = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {_command()}"
            with (folder.directory / "command.txt").open("a", encoding="utf-8") as stream:
                stream.write(start + "\n")
            log.write(f"--- {start}\n")
            folder.clear_leftovers()
            if not (folder.directory / "config.yaml").exists():
                folder.describe()
            try:
                yield folder
            except BaseException as error:
                log.write(f"ended by {type(error).__name__}: {error}\n")
                raise


@functools.cache
def environment() -> dict[str, Any]:
    """Of Python, packages and platform, and of the code where it is a git checkout, as this process began."""
    entries: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            entries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            entries[name] = "not installed as a package"
    entries["git"] = _git_state(PROJECT)
    return entries


def _git_state(root: Path) -> dict[str, Any] | None:
    """Commit and whether anything differs from it; None outside a git checkout."""
    if not (root / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(["git", "-C", str(root), *what], capture_output=True, text=True, timeout=30, check=True)
            for what in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _command() -> str:
    """The command line, with the folder it was given in and the number of processes."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    processes = f"  # {world} processes" if world > 1 else ""
    return f"cd {shlex.quote(os.getcwd())} && python {shlex.join(sys.argv)}{processes}"


class _Log:
    """A file that grows by every ``write`` at once; one that cannot be written ends with a line and not the run."""

    def __init__(self, path: Path) -> None:
        self.path, self._lost = path, False
        path.touch()

    def write(self, text: str) -> None:
        if self._lost:
            return
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
        except OSError as error:
            self._lost = True
            print(f"{self.path} cannot be written ({error.strerror}): it ends here", file=sys.__stderr__)


class _Copy:
    """A stream whose lines go to ``log`` too; bars (anything with a carriage return or an escape) do not."""

    def __init__(self, stream: IO[str], log: _Log) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        if "\r" not in text and "\x1b" not in text:
            self._log.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _copied(log: _Log) -> Iterator[None]:
    """Within the block, what goes to stdout and stderr also goes to ``log``."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Copy(before[0], log), _Copy(before[1], log)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
