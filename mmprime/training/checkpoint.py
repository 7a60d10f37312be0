"""Checkpoints that survive being killed at any moment; safetensors + JSON, no pickle.

A checkpoint is a folder ``step_00001000/`` with ``state.safetensors`` and ``state.json`` (which holds the other's
size and SHA-256). It is written under a temporary name, flushed to the disk and renamed, so a name that can be read
is whole; should the disk have torn it all the same, :meth:`Checkpoints.newest` warns and takes the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "step_"
State = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoints:
    """The checkpoints of one run, in ``directory``; keeps the last ``keep_last`` and the best."""

    def __init__(self, directory: Path, keep_last: int = 2) -> None:
        if keep_last < 1:
            raise ValueError(f"train.keep_last={keep_last} must be at least 1")
        self.directory, self.keep_last = directory, keep_last

    def steps(self) -> list[int]:
        """Steps of the checkpoints that stand, whole or not, in rising order."""
        names = (entry.name for entry in self.directory.glob(PREFIX + "*") if entry.is_dir())
        return sorted(int(name[len(PREFIX) :]) for name in names if name[len(PREFIX) :].isdigit())

    def path(self, step: int) -> Path:
        return self.directory / f"{PREFIX}{step:08d}"

    def save(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any], best: int | None = None) -> Path:
        """Write the checkpoint of ``step``; then delete all but the last ``keep_last`` and the one of step ``best``."""
        self.directory.mkdir(parents=True, exist_ok=True)
        final, temporary = self.path(step), self.directory / f"tmp-{step:08d}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        data = temporary / "state.safetensors"
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, data)
        record = {"step": step, "bytes": data.stat().st_size, "sha256": _sha256(data), "values": values}
        write_text(temporary / "state.json", json.dumps(record))
        _flush(data)
        _flush(temporary)
        if final.exists():  # the same step again, e.g. saved as best: the new one replaces it
            final.rename(self.directory / f"tmp-old-{step:08d}-{os.getpid()}")
        temporary.rename(final)
        _flush(self.directory)
        self._prune(best)
        return final

    def load(self, step: int) -> State:
        """(tensors, values) of one checkpoint; raises ValueError if it is torn or of other content than recorded."""
        folder = self.path(step)
        try:
            record = json.loads((folder / "state.json").read_text())
            data = folder / "state.safetensors"
            if data.stat().st_size != record["bytes"] or _sha256(data) != record["sha256"]:
                raise ValueError("state.safetensors differs from its recorded size or SHA-256")
            return load_file(data), record["values"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ValueError(f"checkpoint {folder} cannot be read: {error}") from error

    def newest(self) -> tuple[int, State] | None:
        """The newest checkpoint that is whole, with a warning for each newer one that is not; None if there is none."""
        for step in reversed(self.steps()):
            try:
                return step, self.load(step)
            except ValueError as error:
                warnings.warn(f"{error}; going back to the checkpoint before it", stacklevel=2)
        return None

    def _prune(self, best: int | None) -> None:
        steps = self.steps()
        keep = {*steps[-self.keep_last :], best}
        for step in steps:
            if step not in keep:
                shutil.rmtree(self.path(step), ignore_errors=True)
        for leftover in self.directory.glob("tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all (temporary name, flush, rename)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    _flush(temporary)
    temporary.rename(path)


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names put under ``prefix/``."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What lies under ``prefix/``, without it."""
    return {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(prefix + "/")}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    """State of an optimizer as tensors named ``<parameter name>/<entry>``; ``names`` maps id(parameter) to its name."""
    return {
        f"{names[id(parameter)]}/{entry}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], names: dict[int, str]) -> None:
    """Put back what :func:`optimizer_tensors` gave; raises ValueError for a parameter the optimizer does not have."""
    parameters = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, entry = key.rsplit("/", 1)
        if name not in parameters:
            raise ValueError(f"the checkpoint has optimizer state for {name!r}, which is no parameter here")
        parameter = parameters[name]
        tensor = tensor.to(parameter.device)
        if tensor.shape == parameter.shape:  # moments lie in memory as their weight does: fused AdamW relies on it
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        optimizer.state[parameter][entry] = tensor


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
