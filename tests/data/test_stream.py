"""Streams: each example once an epoch, an order of (seed, position) alone, bounded memory, no silent loss."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stores_world import stream_of, write_rows
from torch import Tensor

from mmprime.data.stream import LoaderMeter, Reading, Stream
from mmprime.data.stream_order import StreamOrder

SIZES = (40, 25, 60, 10)
TOTAL = sum(SIZES)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "set", SIZES)


def steps(stream: Stream[Tensor], numbers: range, lanes: tuple[int, ...] = (0, 1)) -> list[list[int]]:
    """Rows of each micro-batch of these steps, in order."""
    order, found = stream.order, []
    for step in numbers:
        for lane in lanes:
            first = (step * order.lanes + lane) * order.batch
            found.append(stream.batch(torch.arange(first, first + order.batch)).tolist())
    stream.close()
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 12),
    st.integers(0, 3),
)  # fmt: skip
def test_every_epoch_holds_every_example_once(
    sizes: list[int], batch: int, lanes: int, window: int, epoch: int
) -> None:
    order = StreamOrder(tuple(sizes), batch, lanes, window, 3)
    n = order.num_examples
    where = [order.locate(position) for position in range(epoch * n, (epoch + 1) * n)]
    assert sorted(w.first + int(order.mixed(w)[rank]) for w, rank in where) == list(range(n))
    assert {w.epoch for w, _ in where} == {epoch}
    assert max(w.size for w, _ in where) <= window


def test_the_stream_holds_each_example_once_an_epoch_and_mixes(rows: Path) -> None:
    found = [row for batch in steps(stream_of(rows), range(2 * TOTAL // 8 + 1)) for row in batch]
    assert sorted(found[:TOTAL]) == sorted(found[TOTAL : 2 * TOTAL]) == list(range(TOTAL))
    assert found[:TOTAL] != found[TOTAL : 2 * TOTAL]
    ascents = sum(b == a + 1 for a, b in itertools.pairwise(found))
    assert ascents < TOTAL / 5


def test_the_order_knows_neither_threads_nor_processes_nor_where_reading_began(rows: Path) -> None:
    whole = steps(stream_of(rows), range(50))
    assert steps(stream_of(rows, reading=Reading(workers=5)), range(50)) == whole
    assert steps(stream_of(rows), range(23, 50)) == whole[46:]  # resumed in mid-epoch
    for rank in (0, 1):  # two processes
        assert steps(stream_of(rows), range(50), (rank,)) == whole[rank::2]


def test_a_process_reads_the_shards_of_its_lanes_only(tmp_path: Path) -> None:
    stream = stream_of(write_rows(tmp_path / "many", (20,) * 40), window=8)
    opened: list[str] = []
    blocks = stream.source.blocks
    stream.source.blocks = lambda entry: (opened.append(entry["file"]), blocks(entry))[1]  # type: ignore[method-assign]
    steps(stream, range(100), (1,))  # half of an epoch of 800
    assert 20 <= len(set(opened)) <= 23


def test_what_is_held_does_not_grow(tmp_path: Path) -> None:
    stream = stream_of(write_rows(tmp_path / "many", (50,) * 60), batch=4, lanes=2, window=16)
    most = 0
    for position in range(0, 3000, 4):
        stream.batch(torch.arange(position, position + 4))
        most = max(most, sum(window.size for window in list(stream._windows)))
        assert len(stream._ahead) <= 2 * 2
    assert most <= 2 * 3 * 16
    stream.close()


def test_a_leap_back_gives_the_same_again(rows: Path) -> None:
    stream = stream_of(rows)
    first = [stream.batch(torch.arange(p, p + 4)).tolist() for p in range(0, 200, 4)]
    assert stream.batch(torch.arange(8, 16)).tolist() == first[2] + first[3]
    assert [stream.batch(torch.arange(p, p + 4)).tolist() for p in range(0, 200, 4)] == first
    stream.close()


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_shard_stops_or_is_replaced_within_the_budget(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_rows(tmp_path / "set", SIZES)
    shard = folder / "train-s0002.tar.gz"
    data = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(data[:-9] if damage == "truncated" else data[:40] + bytes([data[40] ^ 4]) + data[41:])
    stream = stream_of(folder)
    with pytest.raises(ValueError, match=r"train-s0002.*data\.skip_shards=0"):
        steps(stream, range(20))
    stream.close()
    found = steps(stream_of(folder, reading=Reading(skip_shards=1)), range(TOTAL // 8))
    assert found == steps(stream_of(folder, reading=Reading(skip_shards=1)), range(TOTAL // 8))
    seen = {row for batch in found for row in batch}
    assert seen.isdisjoint(range(65, 125))
    assert len(seen) > 50
    assert capsys.readouterr().err.count("skipped (1 of at most 1)") == 2  # two streams, each says it once


def test_a_slow_loader_is_told() -> None:
    lines: list[str | None] = []
    meter = LoaderMeter(every=0.0, say=lines.append)
    meter.waited(9.0)  # the first wait
    meter.waited(0.0)
    assert lines == []
    meter.waited(0.5)
    assert "the loader is the bottleneck" in str(lines[0])
    assert meter.last() == {"loader_wait_seconds": 0.5}
