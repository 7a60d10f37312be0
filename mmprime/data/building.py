"""Making a dataset folder: by one process or by several at once, stopped at any moment and begun again.

    DIR/index.partial/unit-NAME.lock   held (flock) by the process that makes the unit; a killed one lets go of it
    DIR/index.partial/unit-NAME.json   the index entries of a unit whose shards are there

A process takes units that nobody holds, then waits for those that others hold and makes what a killed one left. The one
that finds all noted first writes `index.json`. Shards and notes appear whole under their names or not at all, so no
sample is lost or made twice, whoever is killed, and equal units give equal folders however many processes made them.
They need nothing but the folder in common.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from mmprime.io import bar, clear_leftovers, read_json, remove_folder, sha256, whole_file, write_json

from .shards import FORMAT, INDEX, KINDS, MAX_MEMBER, PARTIAL, PARTIAL_FILE, PLAIN, SHARD, Entry, Unit

_COMPRESSION = {"images": "gz", "codes": "gz", "text": "xz", "tokens": "gz"}


def build_dataset(
    out: str | Path,
    kind: str,
    units: Sequence[Unit],
    header: dict[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Build (or help to build, finish, confirm) the dataset folder `out` and return its index.

    Units whose shards are there with the right recipe and hash are kept. Shards of an earlier index that no unit
    makes any more are deleted; files the index does not know are never touched.

    Raises ValueError for an unknown kind, doubled unit names, a folder holding another kind of dataset, or no samples.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if len({unit.name for unit in units}) != len(units):
        raise ValueError(f"unit names must differ, got {[unit.name for unit in units]}")
    build = _Build(Path(out), kind)
    if not build.partial.exists() and all(build.entries(unit) for unit in units):
        index = build.index(units, header)
        if units and index == build.before:
            return index
    with build.together():
        for wait in (False, True):
            for unit in bar(units, "shards", "part", progress and not wait):
                build.make(unit, wait)
        return build.finish(units, header)


def units_noted(folder: str | Path) -> set[str]:
    """Names of the units of an unfinished build whose shards are there."""
    return {path.stem.removeprefix("unit-") for path in (Path(folder) / PARTIAL).glob("unit-*.json")}


class _Build:
    """One process at work on a folder. before: what an earlier build left."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.partial = folder, kind, folder / PARTIAL
        self.known: dict[str, list[dict[str, Any]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.before = _noted(folder)
        if self.before and self.before.get("kind") != kind:
            raise ValueError(
                f"{folder} already holds a dataset of kind {self.before.get('kind')!r}; choose another folder"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Be one of those at work here; whoever is alone removes what killed ones left half written."""
        self.partial.mkdir(exist_ok=True)
        with (self.partial / "at-work.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                clear_leftovers(self.folder)
                clear_leftovers(self.partial)
            except BlockingIOError:
                pass
            fcntl.flock(lock, fcntl.LOCK_SH)
            self.before = _noted(self.folder)  # what those that ended a moment ago have left
            if not (self.partial / "kind.json").exists():
                write_json(self.partial / "kind.json", {"kind": self.kind})
            yield

    def entries(self, unit: Unit) -> list[dict[str, Any]]:
        """Index entries of a unit that is made, intact and of this recipe; else none."""
        if unit.name not in self.known:
            try:
                listed = read_json(self.partial / f"unit-{unit.name}.json")["shards"]
            except (ValueError, KeyError, FileNotFoundError):
                listed = [entry for entry in self.before.get("shards", ()) if entry["unit"] == unit.name]
            if not listed or any(e["recipe"] != unit.recipe or not _intact(self.folder, e) for e in listed):
                return []
            self.known[unit.name] = listed
        return self.known[unit.name]

    def make(self, unit: Unit, wait: bool) -> None:
        """Make a unit unless it is made, or, without `wait`, in the hands of another process."""
        if self.entries(unit):
            return
        try:
            with (self.partial / f"unit-{unit.name}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    return
                if self.partial.exists() and not self.entries(unit):
                    self.known[unit.name] = _write_unit(self.folder, unit, _COMPRESSION[self.kind])
                    write_json(self.partial / f"unit-{unit.name}.json", {"shards": self.known[unit.name]})
        except FileNotFoundError:
            if self.partial.exists():
                raise
        if not self.partial.exists():  # another process has finished
            self.before = _noted(self.folder)

    def index(self, units: Sequence[Unit], header: dict[str, Any] | None) -> dict[str, Any]:
        """The index of units that are all made. Raises ValueError for a shard made twice, or no samples."""
        shards = [entry for unit in units for entry in self.entries(unit)]
        if len({entry["file"] for entry in shards}) != len(shards):
            raise ValueError(f"two units make the same shard: {sorted(entry['file'] for entry in shards)}")
        if not shards:
            raise ValueError(f"nothing to write into {self.folder}: the source holds no samples")
        return {"format": FORMAT, "kind": self.kind, **(header or {}), "splits": count_splits(shards), "shards": shards}

    def finish(self, units: Sequence[Unit], header: dict[str, Any] | None) -> dict[str, Any]:
        """Write the index, unless another process has, and remove what is obsolete."""
        index = self.index(units, header)
        try:
            lock = (self.partial / "index.lock").open("w")
        except FileNotFoundError:
            return index
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.partial.exists():
                notes = [read_json(note).get("shards", []) for note in self.partial.glob("unit-*.json")]
                old = {entry["file"] for listed in (self.before.get("shards", []), *notes) for entry in listed}
                old |= set(self.before.get("obsolete", ()))
                write_json(self.folder / INDEX, index)
                for name in old - {entry["file"] for entry in index["shards"]}:
                    if SHARD.fullmatch(name):
                        (self.folder / name).unlink(missing_ok=True)
                (self.folder / PARTIAL_FILE).unlink(missing_ok=True)
                remove_folder(self.partial)
        return index


def _noted(folder: Path) -> dict[str, Any]:
    """The index of an earlier build, or what is known of one that did not end."""
    for name in (PARTIAL_FILE, INDEX, f"{PARTIAL}/kind.json"):
        if (folder / name).exists():
            try:
                return read_json(folder / name)
            except ValueError:
                continue
    return {}


def _intact(folder: Path, entry: dict[str, Any]) -> bool:
    path = folder / entry["file"]
    return path.is_file() and sha256(path) == entry["sha256"]


def count_splits(shards: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Examples by split."""
    splits: dict[str, int] = {}
    for entry in shards:
        splits[entry["split"]] = splits.get(entry["split"], 0) + entry["examples"]
    return splits


# ---------------------------------------------------------------------------------------------------- shards


class _ShardWriter:
    """One shard, written to `path`; `finish` returns the index entry of `file`."""

    def __init__(self, path: Path, file: str) -> None:
        self.path, self.file = path, file
        self.entries = self.examples = 0
        self._raw = path.open("wb")
        self._packer: gzip.GzipFile | lzma.LZMAFile = (
            lzma.LZMAFile(self._raw, "wb", preset=6)  # noqa: SIM115 (closed by finish)
            if file.endswith(".xz")
            else gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, compresslevel=9, mtime=0)
        )
        self._tar = tarfile.TarFile(fileobj=cast(IO[bytes], self._packer), mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, sample: Entry) -> None:
        if not PLAIN.fullmatch(sample.key):
            raise ValueError(f"key {sample.key!r} must hold only letters, digits, '_' and '-' (use safe_key)")
        for extension, data in sample.files.items():
            if len(data) > MAX_MEMBER:
                raise ValueError(
                    f"{sample.key}.{extension} has {len(data):,} bytes, more than the {MAX_MEMBER:,} of one document "
                    "or picture: divide it"
                )
            member = tarfile.TarInfo(f"{sample.key}.{extension}")  # TarInfo defaults: mtime 0, uid 0, no names
            member.size = len(data)
            try:
                self._tar.addfile(member, io.BytesIO(data))
            except ValueError as error:
                raise ValueError(f"{member.name} cannot be stored: {error}") from error
        self.entries += 1
        self.examples += sample.examples

    def finish(self) -> dict[str, Any]:
        self._tar.close()
        self._packer.close()
        self._raw.close()
        return {
            "file": self.file,
            "entries": self.entries,
            "examples": self.examples,
            "bytes": self.path.stat().st_size,
            "sha256": sha256(self.path),
        }

    def close(self) -> None:
        self._raw.close()


def _write_unit(folder: Path, unit: Unit, compression: str) -> list[dict[str, Any]]:
    writers: dict[str, _ShardWriter] = {}
    with ExitStack() as stack:
        for split, sample in unit.make():
            if split not in writers:
                name = unit.name if unit.name.startswith(f"{split}-") else f"{split}-{unit.name}"
                if not PLAIN.fullmatch(name):
                    raise ValueError(f"shard name {name!r} must hold only letters, digits, '_' and '-'")
                file = f"{name}.tar.{compression}"
                writers[split] = _ShardWriter(stack.enter_context(whole_file(folder / file)), file)
                stack.callback(writers[split].close)
            writers[split].add(sample)
        entries = [(split, writer.finish()) for split, writer in writers.items()]
    about = {"unit": unit.name, "recipe": unit.recipe, **unit.about}
    return [{**entry, "split": split, **about} for split, entry in entries]
