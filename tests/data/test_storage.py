"""Shards behind a URL: a real http server that fails, a store of fsspec, a cache with a limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from stores_world import Rows, Server, serving, stream_of, write_rows

from mmprime.data import storage
from mmprime.data.shards import read_index

SIZES = (40, 25, 60, 10)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MMPRIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_PAUSE", 0.01)
    monkeypatch.setattr(storage, "TIMEOUT", 0.5)
    with serving(write_rows(tmp_path / "rows", SIZES)) as server:
        yield server


def all_rows(path: str, retries: int = 3) -> list[int]:
    source = Rows(path, retries)
    return [row for entry in source.index["shards"] for block in source.blocks(entry) for row in block[:, 0].tolist()]


def test_http_and_an_object_store_give_what_the_folder_gives(served: Server, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "rows"), "/bucket/rows", recursive=True)
    assert all_rows(served.url) == all_rows("memory://bucket/rows") == all_rows(str(tmp_path / "rows"))
    assert read_index(served.url) == read_index(tmp_path / "rows")


def test_a_shard_is_fetched_once(served: Server) -> None:
    assert all_rows(served.url) == all_rows(served.url) == list(range(sum(SIZES)))
    assert {name: count for name, count in served.served.items() if name != "index.json"} == {
        f"train-s{i:04d}.tar.gz": 1 for i in range(4)
    }


@pytest.mark.parametrize("fault", ["500", "short", "altered", "hang"])
def test_a_fetch_that_fails_is_tried_again(served: Server, fault: str) -> None:
    served.faults = {"train-s0001.tar.gz": [fault] * 2}
    assert all_rows(served.url) == list(range(sum(SIZES)))
    assert served.served["train-s0001.tar.gz"] == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("500", "HTTP Error 500"), ("short", "has .* bytes|IncompleteRead"), ("altered", "sha256 differs")],
)
def test_a_fetch_that_fails_for_good_is_an_error_never_less_data(served: Server, fault: str, reason: str) -> None:
    served.faults = {"train-s0002.tar.gz": [fault] * 9}
    with pytest.raises(ValueError, match=rf"train-s0002\.tar\.gz.*({reason}).*\(3 tries\)"):
        all_rows(served.url, retries=2)


def test_a_file_of_the_cache_that_changed_is_fetched_again(served: Server, tmp_path: Path) -> None:
    all_rows(served.url)
    entry = read_index(served.url)["shards"][0]
    cached = tmp_path / "cache/shards" / entry["sha256"]
    cached.write_bytes(cached.read_bytes()[:-3] + b"abc")
    assert all_rows(served.url) == list(range(sum(SIZES)))
    assert served.served[entry["file"]] == 2


def test_the_cache_keeps_its_limit(served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = read_index(served.url)["shards"]
    limit = entries[0]["bytes"] + entries[1]["bytes"] + 200
    monkeypatch.setenv("MMPRIME_CACHE_GB", str(limit / 1e9))
    for _ in range(2):
        assert all_rows(served.url) == list(range(sum(SIZES)))
        assert sum(f.stat().st_size for f in (tmp_path / "cache/shards").iterdir()) <= limit
    monkeypatch.setenv("MMPRIME_CACHE_GB", "lots")
    with pytest.raises(ValueError, match="MMPRIME_CACHE_GB='lots'"):
        all_rows(served.url, retries=0)


@pytest.mark.parametrize("url", ["pipe://cat /etc/passwd", "nothing://there", "memory://absent/rows"])
def test_a_url_that_leads_nowhere_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_PAUSE", 0.01)
    with pytest.raises(ValueError, match=url.partition(":")[0]) as caught:
        read_index(url)
    assert "\n" not in str(caught.value)


def test_a_stream_over_http_skips_within_its_budget(served: Server, capsys: pytest.CaptureFixture[str]) -> None:
    from mmprime.data.stream import Reading

    served.faults = {"train-s0001.tar.gz": ["500"] * 99}
    stream = stream_of(served.url, lanes=1, reading=Reading(skip_shards=1), retries=1)
    rows = torch.cat([stream.batch(torch.arange(p, p + 4)) for p in range(0, 132, 4)])
    assert not set(rows.tolist()) & set(range(40, 65))  # the shard of 25
    assert len(rows) == 132
    warning = capsys.readouterr().err
    assert warning.count("skipped (1 of at most 1): examples of another shard stand in the place of its 25") == 1
    stream.close()
