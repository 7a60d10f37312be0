"""Memory and speed of a stream against the size of its data set.

    python benchmarks/stream_memory.py --examples 10000 10000000

A shard of 8,192 rows of 256 random ids stands in a folder under as many names as the data set has shards, and a
process of its own reads 4,000 micro-batches of 256 through a buffer of 16,384, hashing and unpacking each shard it
comes to. Printed: examples, shards, MB read in an epoch, peak resident memory of the process, what of it came after the
imports, and examples a second of CPU time, all threads together.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmprime.data.building import build_dataset
from mmprime.data.codes import npy
from mmprime.data.shards import Entry, Unit, read_index
from mmprime.data.stream import Source, Stream
from mmprime.data.stream_order import StreamOrder
from mmprime.data.tokens import PACKED_ROWS, token_blocks
from mmprime.io import write_json

SHARD, LENGTH, CODES = 8192, 256, 512
BATCH, BATCHES, BUFFER = 256, 4000, 16_384


class Rows(Source[Tensor]):
    """The rows as they are."""

    def __init__(self, path: Path) -> None:
        self.path, self.index = path, read_index(path)

    def blocks(self, entry: dict[str, Any]) -> Iterator[Tensor]:
        return token_blocks(self.path, self.index, entry)

    def join(self, blocks: list[Tensor]) -> Tensor:
        return torch.cat(blocks)

    def pick(self, block: Tensor, chosen: Tensor) -> Tensor:
        return block[chosen]

    def decode(self, block: Tensor) -> Tensor:
        return block


def write(path: Path, examples: int) -> None:
    """A data set of so many rows: one shard of random ids, under as many names as it takes."""

    def make() -> Iterator[tuple[str, Entry]]:
        for start in range(0, SHARD, PACKED_ROWS):
            rows = np.random.default_rng(start).integers(0, CODES, (PACKED_ROWS, LENGTH), np.int16)
            yield "train", Entry(f"s{start}", {"tokens.npy": npy(rows)}, len(rows))

    shutil.rmtree(path, ignore_errors=True)
    header = {"num_codes": CODES, "length": LENGTH, "tokenizer_fingerprint": "random"}
    index = build_dataset(path, "tokens", [Unit("first", "random", make)], header)
    (first,) = index["shards"]
    index["shards"] = [{**first, "file": f"train-{n:06d}.tar.gz"} for n in range(round(examples / SHARD))]
    index["splits"]["train"] = SHARD * len(index["shards"])
    for entry in index["shards"]:
        (path / entry["file"]).hardlink_to(path / first["file"])
    write_json(path / "index.json", index)


def peak() -> float:
    """Peak resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(path: Path) -> None:
    """Read the stream and print its line."""
    torch.set_num_threads(1)
    imported, source = peak(), Rows(path)
    shards = source.index["shards"]
    order = StreamOrder(tuple(entry["examples"] for entry in shards), BATCH, 1, BUFFER // 2, 0)
    stream, began, seen = Stream(source, shards, order), time.process_time(), 0
    for position in range(0, BATCH * BATCHES, BATCH):
        seen += len(stream.batch(torch.arange(position, position + BATCH)))
    rate, size = seen / (time.process_time() - began), sum(entry["bytes"] for entry in shards) / 1e6
    stream.close()
    print(
        f"| {order.num_examples:,} | {len(shards):,} | {size:,.1f} | {peak():,.0f} | {peak() - imported:,.0f} "
        f"| {rate:,.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 10_000_000])
    parser.add_argument("--folder", type=Path, default=Path("out/stream_memory"))
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read)
        return
    columns = ("examples", "shards", "MB an epoch", "peak, MB", "of it after imports", "examples/CPU s")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for examples in options.examples:
        write(options.folder / str(examples), examples)
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, "--read", str(options.folder / str(examples))], check=True)


if __name__ == "__main__":
    main()
