"""Files of a dataset wherever it lies: in a folder, behind http(s), or in a store that fsspec reads (s3://, gs://, …).

    DIR                   read in place
    https://HOST/DIR      fetched by the standard library
    PROTOCOL://DIR        fetched by fsspec, which needs the package of the protocol (s3fs, gcsfs, …)

What is fetched lies in a cache of this machine, $MMPRIME_CACHE/shards, shared by its processes under the hash of its
content. When it holds more than $MMPRIME_CACHE_GB (default 100) the files used longest ago are removed. Size and sha256
of a shard are compared with the index each time it is opened, before anything of it is used; a fetch that breaks off,
times out or brings something else is tried again. No URL runs a program: there is no `pipe:`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from mmprime.io import cache_folder, whole_file

RETRIES = 3
TIMEOUT = 30.0  # seconds without a byte, http(s)
_PAUSE = 0.5  # seconds before the first retry, then twice as long each time
_BLOCK = 1 << 20


def is_remote(path: str | Path) -> bool:
    """Whether a dataset lies behind a URL rather than in a folder."""
    return "://" in str(path)


def join(folder: str | Path, name: str) -> str:
    """Path or URL of a file in a dataset folder."""
    return f"{str(folder).rstrip('/')}/{name}"


def read_remote(url: str, retries: int = RETRIES) -> bytes:
    """The bytes of a small file behind a URL. Raises ValueError naming it when all tries fail."""

    def fetch() -> bytes:
        with _opened(url) as stream:
            return stream.read()

    return cast(bytes, _tried(url, fetch, retries))


def open_shard(folder: str | Path, entry: dict[str, Any], retries: int = RETRIES) -> IO[bytes]:
    """A shard, open at its start, whose size and sha256 are those of its index `entry`.

    Raises ValueError naming the shard when it is missing, truncated or altered; a remote one after `retries` retries.
    """
    where = join(folder, entry["file"])
    if is_remote(folder):
        return cast(IO[bytes], _tried(where, lambda: _from_cache(where, entry), retries))
    if not Path(where).is_file():
        raise ValueError(f"shard {where} is missing: copy the folder again or rebuild it with tools/prepare.py")
    return _verified(Path(where).open("rb"), where, entry)


def _verified(stream: IO[bytes], where: str, entry: dict[str, Any]) -> IO[bytes]:
    """The stream at its start, or closed and a ValueError."""
    try:
        size = stream.seek(0, os.SEEK_END)
        if size != entry["bytes"]:
            raise ValueError(f"shard {where} has {size} bytes, its index says {entry['bytes']}: truncated or altered")
        stream.seek(0)
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK):
            digest.update(block)
        if digest.hexdigest() != entry["sha256"]:
            raise ValueError(f"shard {where} is corrupt: its sha256 differs from the index")
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


# -------------------------------------------------------------------------------------------------- fetching


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    if url.startswith(("http://", "https://")):
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            yield response
    else:
        import fsspec

        with fsspec.open(url, "rb") as stream:
            yield stream


def _tried(url: str, fetch: Any, retries: int) -> Any:
    """What `fetch` gives, tried again after ever longer pauses. Raises ValueError with the last reason."""
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            return fetch()
        except ImportError as error:
            raise ValueError(f"{url}: {error}") from error
        except Exception as error:  # stores raise errors of their own kinds
            reason = error
            if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410):
                break
    tries = f" ({attempt + 1} tries)" if attempt else ""
    message = str(reason) if isinstance(reason, ValueError) else f"{url} cannot be fetched: {reason or repr(reason)}"
    raise ValueError(" ".join(f"{message}{tries}".split())) from reason


# -------------------------------------------------------------------------------------------------- the cache


def _from_cache(url: str, entry: dict[str, Any]) -> IO[bytes]:
    folder = cache_folder() / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / entry["sha256"]
    with _locked(folder / f"lock{entry['sha256'][:2]}"):  # so that one process of the machine fetches it
        if path.is_file():
            try:
                stream = _verified(path.open("rb"), str(path), entry)
                os.utime(path)
                return stream
            except (ValueError, FileNotFoundError):  # damaged, or just removed by another: fetched again
                path.unlink(missing_ok=True)
        with whole_file(path) as temporary:
            with temporary.open("wb") as target, _opened(url) as source:
                while block := source.read(_BLOCK):
                    target.write(block)
                    if target.tell() > entry["bytes"]:
                        break
            stream = _verified(temporary.open("rb"), url, entry)
    _make_room(folder, path)
    return stream


def _make_room(folder: Path, newest: Path) -> None:
    """Remove the files used longest ago; one that is being read stays readable until it is closed."""
    files = []
    for path in folder.iterdir():
        if len(path.name) == len(newest.name) and path != newest:
            with suppress(FileNotFoundError):
                about = path.stat()
                files.append((about.st_mtime, about.st_size, path))
    held = newest.stat().st_size + sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if held <= _limit():
            break
        path.unlink(missing_ok=True)
        held -= size


def _limit() -> float:
    """Bytes the cache may hold. Raises ValueError for a value that is no number above 0."""
    text = os.environ.get("MMPRIME_CACHE_GB", "100")
    try:
        if (limit := float(text) * 1e9) > 0:
            return limit
    except ValueError:
        pass
    raise ValueError(f"MMPRIME_CACHE_GB={text!r} is no number of gigabytes above 0")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
