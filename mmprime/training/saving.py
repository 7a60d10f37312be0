"""Tensors of a checkpoint on the disk, whole or in shards, and saves that go on while training does.

    state.safetensors                              of tensors that every process has whole
    shard-R-model-00001-of-00001.safetensors       what process R has of tensors that are shared out

Shards are written and read by torch.distributed.checkpoint, whose planner also fits them to another number of
processes: each reads the parts that it holds from whichever files have them. Safetensors alone, no pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

from .distributed import World

DATA = "state.safetensors"


def write_tensors(folder: Path, tensors: dict[str, Tensor], world: World) -> None:
    """Write tensors on the CPU into ``folder``; where they are shared out, all processes of ``world`` call this.

    Raises OSError in all of them where one cannot write its part.
    """
    if world.size == 1:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / DATA)
        return
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save(tensors, storage_writer=writer, process_group=world.group)
    except CheckpointException as error:
        rank, (reason, _) = next(iter(error.failures.items()))
        if isinstance(reason, OSError):
            raise OSError(reason.errno, f"process {rank}: {reason.strerror}", str(folder)) from error
        raise


def read_tensors(folder: Path, layout: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """All tensors in the safetensors of ``folder``, on the CPU; one whose ``layout`` is a tensor of its shape that is
    shared out comes in the same parts on the same device."""
    reader = HuggingFaceStorageReader(str(folder))
    tensors = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        like = layout(name)
        kind = entry.properties.dtype  # type: ignore[union-attr]
        if isinstance(like, DTensor) and like.shape == entry.size:  # type: ignore[union-attr]
            tensors[name] = torch.empty_like(like, dtype=kind, requires_grad=False)
        else:
            tensors[name] = torch.empty(entry.size, dtype=kind)  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(tensors, storage_reader=reader, no_dist=True)  # every process finds its parts by itself
    return tensors


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def non_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the floating tensors that hold a NaN or an infinity in this process."""
    return [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(local(t)).all())]


class BackgroundSaver:
    """Copies a state to the CPU at once and writes it in a thread; one at a time."""

    def __init__(self) -> None:
        self._stager = DefaultStager(StagingOptions(torch.cuda.is_available(), False, False, False))
        self._pool = ThreadPoolExecutor(1, "saving")
        self._under_way: Future[Any] | None = None

    def copied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are now, on the CPU; the copy before it must have been written."""
        return self._stager.stage(tensors)  # type: ignore[return-value]

    def start(self, write: Callable[[], object]) -> None:
        """Call ``write`` in the thread, once the save before it is done."""
        self.wait()
        self._under_way = self._pool.submit(write)

    def check(self) -> None:
        """Raise what ended the last save, if something did by now."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the save under way; raises what ended it."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Wait for the save under way, with a line where it failed."""
        try:
            self.wait()
        except BaseException as error:
            print(f"saving failed: {error!r}", flush=True)
        self._pool.shutdown()
        self._stager.close()
