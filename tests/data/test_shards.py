"""Shards: what is written comes back, is never half there, and any damage is noticed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datafixtures import folder_bytes

from mmprime.data import building, shards
from mmprime.data.building import build_dataset
from mmprime.data.keys import safe_key
from mmprime.data.shards import Entry, Unit, read_index, read_samples, read_shard

made: list[str] = []


def unit(name: str, values: list[bytes], recipe: str = "r", fail_at: int | None = None) -> Unit:
    def make() -> Iterator[tuple[str, Entry]]:
        made.append(name)
        for i, value in enumerate(values):
            if i == fail_at:
                raise KeyboardInterrupt
            yield "val" if i == 1 else "train", Entry(f"{name}-{i}", {"txt": value, "json": b"{}"})

    return Unit(name, recipe, make)


@pytest.fixture
def units() -> list[Unit]:
    made.clear()
    return [unit("a", [b"one", b"two", b"three"]), unit("b", [b"four", b"five"])]


def contents(folder: Path, split: str | None = None) -> dict[str, bytes]:
    return {key: files["txt"] for _, key, files in read_samples(folder, split)}


@pytest.mark.parametrize("kind", ["images", "text"])
def test_round_trip(tmp_path: Path, units: list[Unit], kind: str) -> None:
    index = build_dataset(tmp_path, kind, units, {"name": "x"})
    assert contents(tmp_path) == {"a-0": b"one", "a-1": b"two", "a-2": b"three", "b-0": b"four", "b-1": b"five"}
    assert contents(tmp_path, "val") == {"a-1": b"two", "b-1": b"five"}
    assert index["splits"] == {"train": 3, "val": 2}
    assert read_index(tmp_path) == index
    assert {p.name for p in tmp_path.iterdir()} == {"index.json", *(e["file"] for e in index["shards"])}


def test_second_run_changes_nothing_and_equal_content_gives_equal_bytes(tmp_path: Path, units: list[Unit]) -> None:
    build_dataset(tmp_path / "x", "images", units)
    before = folder_bytes(tmp_path / "x")
    build_dataset(tmp_path / "x", "images", units)
    assert made == ["a", "b"]
    assert folder_bytes(tmp_path / "x") == before
    build_dataset(tmp_path / "y", "images", units)
    assert {n: c for n, (c, _) in folder_bytes(tmp_path / "y").items()} == {n: c for n, (c, _) in before.items()}


def test_interrupted_build_is_refused_then_resumed(tmp_path: Path, units: list[Unit]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_dataset(tmp_path, "images", [units[0], unit("b", [b"four", b"five"], fail_at=1)])
    with pytest.raises(ValueError, match="unfinished"):
        read_index(tmp_path)
    (tmp_path / ".train-b.tar.12.tmp.gz").write_bytes(b"half a shard left by kill -9")
    made.clear()
    build_dataset(tmp_path, "images", units)
    assert made == ["b"]
    assert len(contents(tmp_path)) == 5
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") or "partial" in p.name]


def test_changed_recipe_or_damaged_shard_is_made_again(tmp_path: Path, units: list[Unit]) -> None:
    build_dataset(tmp_path, "images", units)
    made.clear()
    (tmp_path / "train-b.tar.gz").write_bytes(b"scribble")
    build_dataset(tmp_path, "images", units)
    assert made == ["b"]
    build_dataset(tmp_path, "images", [units[0], unit("b", [b"only train now"], recipe="r2")])
    assert contents(tmp_path)["b-0"] == b"only train now"
    assert not (tmp_path / "val-b.tar.gz").exists()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


@pytest.mark.parametrize(("damage", "message"), [(cut, "truncated"), (flip, "sha256")])
def test_damaged_shard_is_noticed(
    tmp_path: Path, units: list[Unit], damage: Callable[[bytes], bytes], message: str
) -> None:
    build_dataset(tmp_path, "images", units)
    shard = tmp_path / "train-a.tar.gz"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ValueError, match=rf"train-a\.tar\.gz.*{message}"):
        contents(tmp_path)


def test_missing_shard_is_noticed(tmp_path: Path, units: list[Unit]) -> None:
    build_dataset(tmp_path, "images", units)
    (tmp_path / "val-a.tar.gz").unlink()
    with pytest.raises(ValueError, match="is missing"):
        contents(tmp_path)


def test_wrong_count_is_noticed_even_with_a_right_hash(tmp_path: Path, units: list[Unit]) -> None:
    index = build_dataset(tmp_path, "images", units)
    entry = {**index["shards"][0], "entries": 7}
    with pytest.raises(ValueError, match="holds 2 samples, its index says 7"):
        list(read_shard(tmp_path, entry))


def test_tar_truncated_before_it_was_indexed(tmp_path: Path, units: list[Unit]) -> None:
    """A shard cut short inside its tar, with size and hash of the cut file in the index."""
    entry = build_dataset(tmp_path, "images", units)["shards"][0]
    whole = gzip.decompress((tmp_path / entry["file"]).read_bytes())
    for length in (512 + 10, 4 * 512):  # inside a member; between two samples, where tar sees no fault
        data = gzip.compress(whole[:length], mtime=0)
        (tmp_path / entry["file"]).write_bytes(data)
        altered = {**entry, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        with pytest.raises(ValueError, match=r"train-a\.tar\.gz"):
            list(read_shard(tmp_path, altered))


def test_index_may_not_point_outside(tmp_path: Path, units: list[Unit]) -> None:
    entry = build_dataset(tmp_path, "images", units)["shards"][0]
    with pytest.raises(ValueError, match="not a plain"):
        list(read_shard(tmp_path, {**entry, "file": "../secret.tar.gz"}))


def test_members_carry_no_time_and_no_owner(tmp_path: Path, units: list[Unit]) -> None:
    build_dataset(tmp_path, "images", units)
    data = (tmp_path / "train-a.tar.gz").read_bytes()
    assert data[4:8] == b"\0\0\0\0"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}


def test_keys_with_dots_are_refused_and_safe_keys_are_injective(tmp_path: Path) -> None:
    bad = Unit("a", "r", lambda: [("train", Entry("a.b", {"txt": b""}))])
    with pytest.raises(ValueError, match=r"'a\.b'"):
        build_dataset(tmp_path, "text", [bad])
    names = ["a.b", "a_b", "a/b", "a__b", "a_2e_b", "aéb", "ab"]
    assert len({safe_key(name) for name in names}) == len(names)


def test_wrong_folder_kind_split_and_format(tmp_path: Path, units: list[Unit]) -> None:
    with pytest.raises(ValueError, match="no dataset folder"):
        read_index(tmp_path)
    build_dataset(tmp_path, "images", units)
    with pytest.raises(ValueError, match="holds 'images'"):
        read_index(tmp_path, "codes")
    with pytest.raises(ValueError, match="no split 'tset'"):
        contents(tmp_path, "tset")
    with pytest.raises(ValueError, match="already holds"):
        build_dataset(tmp_path, "text", units)
    (tmp_path / "index.json").write_text(json.dumps({"format": 99, "kind": "images"}))
    with pytest.raises(ValueError, match="format 99"):
        read_index(tmp_path)


def hostile_shard(folder: Path, entry: dict[str, Any], tar: bytes) -> dict[str, Any]:
    data = gzip.compress(tar)
    (folder / entry["file"]).write_bytes(data)
    return {**entry, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_member_or_header_of_any_size_is_refused_before_it_is_read(
    tmp_path: Path, units: list[Unit], kind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = build_dataset(tmp_path, "images", units)["shards"][0]
    member = tarfile.TarInfo("a-0.txt")
    member.size, member.type = 2**33 - 1, kind
    asked: list[int] = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: asked.append(size) or read(self, size))
    with pytest.raises(ValueError, match=r"a.*\.tar\.gz is not a readable tar: .*8,589,93\d,\d+ bytes, more than"):
        list(read_shard(tmp_path, hostile_shard(tmp_path, entry, member.tobuf() + bytes(2048))))
    assert max(asked) <= shards.MAX_MEMBER


def test_what_is_too_large_to_be_read_is_not_written(
    tmp_path: Path, units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "MAX_MEMBER", 4)
    with pytest.raises(ValueError, match=r"a-2\.txt has 5 bytes, more than the 4 .*divide it"):
        build_dataset(tmp_path, "images", units)


def test_two_members_of_one_name_are_noticed(tmp_path: Path, units: list[Unit]) -> None:
    entry = build_dataset(tmp_path, "images", units)["shards"][0]
    member = tarfile.TarInfo("a-0.txt")
    with pytest.raises(ValueError, match=r"shard .*\.tar\.gz is not a readable tar: .*a-0\.txt: duplicate"):
        list(read_shard(tmp_path, hostile_shard(tmp_path, entry, member.tobuf() * 2 + bytes(2048))))
