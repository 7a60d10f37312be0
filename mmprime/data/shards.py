"""Dataset folders: webdataset shards plus an index that makes every byte accountable.

    DIR/index.json          format, kind, licences, splits, and for each shard: split, counts, bytes, sha256
    DIR/SPLIT-UNIT.tar.gz   samples KEY.ext, grouped by KEY; keys hold no dots (text: .tar.xz, a third smaller)

A dataset is built from *units* (a vendor, a block of files). A unit has a *recipe*, a hash of everything that
decides its content; `building` makes them, goes on where it was stopped, and writes nothing for a recipe that is there.
Tar members carry no time and no owner, so equal content means equal bytes.

A damaged tar may silently lose its tail, therefore reading checks size, sha256 and counts first. No member is larger
than MAX_MEMBER bytes: a small compressed file could otherwise ask for any amount of memory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from mmprime.io import parse_json, read_json

from .index_check import check_index
from .storage import RETRIES, is_remote, join, open_shard, read_remote

FORMAT = 1
MAX_MEMBER = 2**28
KINDS = ("images", "codes", "text", "tokens")
INDEX, PARTIAL, PARTIAL_FILE = "index.json", "index.partial", "index.partial.json"
PLAIN = re.compile(r"[A-Za-z0-9_\-]+")
SHARD = re.compile(r"[A-Za-z0-9_\-]+\.tar(\.(gz|xz))?")


@dataclass(frozen=True)
class Entry:
    """One webdataset sample: `key` (letters, digits, `_`, `-`), its files by extension, the examples it packs."""

    key: str
    files: dict[str, bytes]
    examples: int = 1


@dataclass(frozen=True)
class Unit:
    """A part of a dataset that is built as a whole.

    `make()` yields (split, sample); `recipe` names its content without building it; `about` is copied into the
    index entry of each of its shards (for instance the vendor).
    """

    name: str
    recipe: str
    make: Callable[[], Iterable[tuple[str, Entry]]]
    about: dict[str, Any] = field(default_factory=dict)


def digest(*parts: bytes | str) -> str:
    """sha256 over parts, each preceded by its length so that no two lists of parts collide."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "little"))
        h.update(data)
    return h.hexdigest()


def canonical_json(value: object) -> bytes:
    """Compact UTF-8 JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


# ---------------------------------------------------------------------------------------------------- reading


def read_index(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The index of a dataset folder. Raises ValueError if it is absent, unreadable, unfinished or of another kind."""
    file = join(path, INDEX)
    if is_remote(path):
        index = parse_json(read_remote(file), file)
    elif (Path(path) / PARTIAL).exists() or (Path(path) / PARTIAL_FILE).exists():
        raise ValueError(f"{path} is an unfinished build: run the same prepare command again to finish it")
    elif not Path(file).is_file():
        raise ValueError(f"{path} is no dataset folder: {INDEX} is missing (make one with tools/prepare.py)")
    else:
        index = read_json(file)
    if index.get("format") != FORMAT:
        raise ValueError(f"{file} has format {index.get('format')!r}; this version reads format {FORMAT}")
    if kind is not None and index.get("kind") != kind:
        raise ValueError(f"{path} holds {index.get('kind')!r}, but {kind!r} was asked for")
    check_index(file, index)
    return index


def split_shards(index: dict[str, Any], split: str | None) -> list[dict[str, Any]]:
    """Index entries of one split (None: all). Raises ValueError for a split that does not exist."""
    if split is not None and split not in index["splits"]:
        raise ValueError(f"no split {split!r}; this dataset has {sorted(index['splits'])}")
    return [entry for entry in index["shards"] if split in (None, entry["split"])]


def read_shard(
    folder: str | Path, entry: dict[str, Any], retries: int = RETRIES
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {extension: bytes}) of one verified shard, one sample in memory at a time, through webdataset.

    Raises ValueError when the file is missing, truncated, altered, unreadable or holds another number of samples; a
    remote one is fetched again `retries` times first.
    """
    from webdataset.tariterators import group_by_keys

    if not SHARD.fullmatch(entry["file"]):
        raise ValueError(
            f"the index of {folder} names a shard {entry['file']!r} that is not a plain NAME.tar, NAME.tar.gz or "
            "NAME.tar.xz"
        )
    path, count = join(folder, entry["file"]), 0
    with open_shard(folder, entry, retries) as packed:
        try:
            for sample in group_by_keys(_members(entry["file"], packed), lcase=False):
                count += 1
                yield sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")}
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
            why = error.args[0] if error.args else repr(error)
            raise ValueError(f"shard {path} is not a readable tar: {why}") from error
    if entry["entries"] not in (None, count):  # None: to be counted
        raise ValueError(f"shard {path} holds {count} samples, its index says {entry['entries']}")


class _Bounded(io.RawIOBase):
    """A stream of which no single read is larger than a member may be; headers of a tar have sizes of their own."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile | lzma.LZMAFile) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_MEMBER:
            raise tarfile.ReadError(f"a header asks for {size:,} bytes, more than {MAX_MEMBER:,}")
        return self.stream.read(size)

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)


def _unpacked(shard: str, packed: IO[bytes]) -> IO[bytes] | gzip.GzipFile | lzma.LZMAFile:
    if shard.endswith(".tar"):
        return packed
    return lzma.LZMAFile(packed) if shard.endswith(".xz") else gzip.GzipFile(fileobj=packed)


def _members(shard: str, packed: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The regular files of a tar. Raises tarfile.ReadError for one over MAX_MEMBER bytes."""
    with (
        _unpacked(shard, packed) as stream,
        tarfile.TarFile(fileobj=cast(IO[bytes], _Bounded(stream))) as tar,
    ):
        for member in tar:
            if member.size > MAX_MEMBER:
                raise tarfile.ReadError(f"{member.name} has {member.size:,} bytes, more than {MAX_MEMBER:,}")
            if member.isreg():
                yield {"fname": member.name, "data": cast(IO[bytes], tar.extractfile(member)).read(), "__url__": shard}


def read_samples(path: str | Path, split: str | None = None) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Yield (split, key, files) over all verified shards of a dataset folder."""
    for entry in split_shards(read_index(path), split):
        for key, files in read_shard(path, entry):
            yield entry["split"], key, files


def field_of(files: dict[str, bytes], extension: str, where: str) -> bytes:
    """The bytes of one member of a sample; ValueError naming the sample if it is absent."""
    if extension not in files:
        raise ValueError(f"{where} has no .{extension} (only {sorted(files)})")
    return files[extension]
