"""Token shards, and an http server on this machine that can be told to fail."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmprime.data.building import build_dataset
from mmprime.data.codes import npy
from mmprime.data.shards import Entry, Unit, read_index
from mmprime.data.stream import Reading, Source, Stream
from mmprime.data.stream_order import StreamOrder
from mmprime.data.tokens import token_blocks


def write_rows(folder: Path, sizes: tuple[int, ...] = (40, 25, 60, 10), length: int = 2, packed: int = 16) -> Path:
    """Rows [i, i, …] of i = 0, 1, 2, … in shards of these sizes."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def unit(number: int) -> Unit:
        def make() -> Iterator[tuple[str, Entry]]:
            for begin in range(0, sizes[number], packed):
                count = min(packed, sizes[number] - begin)
                rows = np.arange(starts[number] + begin, starts[number] + begin + count, dtype=np.int32)
                files = {"tokens.npy": npy(np.repeat(rows[:, None], length, 1))}
                yield "train", Entry(f"s{number}_{begin:06d}", files, count)

        return Unit(f"s{number:04d}", f"{sizes[number]} {length}", make)

    header = {"num_codes": sum(sizes), "length": length, "tokenizer_fingerprint": "rows"}
    build_dataset(folder, "tokens", [unit(number) for number in range(len(sizes))], header)
    return folder


class Rows(Source[Tensor]):
    """The first token of each row, which is its number."""

    def __init__(self, path: str | Path, retries: int = 3) -> None:
        self.path, self.index, self.retries = path, read_index(path), retries

    def blocks(self, entry: dict[str, Any]) -> Iterator[Tensor]:
        return token_blocks(self.path, self.index, entry, self.retries)

    def join(self, blocks: list[Tensor]) -> Tensor:
        return torch.cat(blocks)

    def pick(self, block: Tensor, chosen: Tensor) -> Tensor:
        return block[chosen]

    def decode(self, block: Tensor) -> Tensor:
        return block[:, 0]


def stream_of(
    path: str | Path, batch: int = 4, lanes: int = 2, window: int = 16, reading: Reading | None = None, retries: int = 3
) -> Stream[Tensor]:
    source = Rows(path, retries)
    sizes = tuple(entry["examples"] for entry in source.index["shards"])
    return Stream(source, source.index["shards"], StreamOrder(sizes, batch, lanes, window, 7), reading)


class Server:
    """url: of the folder; faults: what the next requests of a file name get; served: requests by file name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.faults: dict[str, list[str]] = {}
        self.served: Counter[str] = Counter()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, server_state: Server, **more: Any) -> None:
        self.state = server_state
        super().__init__(*arguments, **more)

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.state.served[name] += 1
        fault = self.state.faults.get(name, [])
        what = fault.pop(0) if fault else ""
        data = Path(self.translate_path(self.path))
        if what == "500":
            self.send_error(500)
        elif what == "hang":
            time.sleep(3)
        elif what in ("short", "altered", "stall"):  # closes midway; a byte is another one; goes silent midway
            body = data.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            middle = len(body) // 2
            self.wfile.write(body[:middle])
            if what == "altered":
                self.wfile.write(bytes([body[middle] ^ 1]) + body[middle + 1 :])
            time.sleep(40 if what == "stall" else 0)
        else:
            super().do_GET()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    state = Server("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, server_state=state, directory=str(folder)))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
