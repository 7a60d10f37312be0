"""Checkpoints that survive being killed at any moment; safetensors + JSON, no pickle.

    checkpoints/step_00001000/state.safetensors   tensors
                              state.json          {"step", "values"}
                              manifest.json       size and SHA-256 of the two, written last
    checkpoints.json                              {"newest", "best"}: steps; says that there was a checkpoint

A checkpoint is written under a temporary name, flushed to the disk and renamed, and a step that stands is not written
again, so at no moment is there less than the last whole one. What was torn or altered all the same is told by its
hashes: :meth:`Checkpoints.newest` goes back to the one before.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmprime.io import remove_folder, sha256, whole_folder, write_text

PREFIX = "step_"
DATA, VALUES, MANIFEST = "state.safetensors", "state.json", "manifest.json"
FORMAT = 2
State = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass
class Newest:
    """The newest whole checkpoint, if there is one, and why each newer one cannot be read, by step."""

    step: int = 0
    state: State | None = None
    damaged: dict[int, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run, in ``directory``; keeps the last ``keep_last`` and the best."""

    def __init__(self, directory: Path, keep_last: int = 2) -> None:
        if keep_last < 1:
            raise ValueError(f"train.keep_last={keep_last} must be at least 1")
        self.directory, self.keep_last = directory, keep_last
        self.record = directory.with_name(directory.name + ".json")

    def steps(self) -> list[int]:
        """Steps of the checkpoints that stand, whole or not, in rising order."""
        names = (entry.name for entry in self.directory.glob(PREFIX + "*") if entry.is_dir())
        return sorted(int(name[len(PREFIX) :]) for name in names if name[len(PREFIX) :].isdecimal())

    def path(self, step: int) -> Path:
        return self.directory / f"{PREFIX}{step:08d}"

    def save(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any], best: int | None = None) -> Path:
        """Write the checkpoint of ``step``, unless it stands, then :meth:`prune`; returns its folder."""
        final = self.path(step)
        if not final.exists():
            with whole_folder(final) as folder:
                save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, folder / DATA)
                (folder / VALUES).write_text(json.dumps({"step": step, "values": values}), encoding="utf-8")
                (folder / MANIFEST).write_text(json.dumps(_manifest(folder)), encoding="utf-8")
        write_text(self.record, json.dumps({"newest": step, "best": best}) + "\n")
        self.prune(best)
        return final

    def prune(self, best: int | None = None) -> None:
        """Delete all checkpoints but the last ``keep_last`` and the one of step ``best``."""
        steps = self.steps()
        for old in sorted(set(steps) - {*steps[-self.keep_last :], best}):
            remove_folder(self.path(old))

    def load(self, step: int) -> State:
        """(tensors, values) of one checkpoint; raises ValueError if it is torn or of other content than recorded."""
        folder = self.path(step)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            found = _manifest(folder)
            if manifest != found:
                odd = [n for n in (DATA, VALUES) if _entry(manifest, n) != found["files"][n]]
                raise ValueError(f"{' and '.join(odd) or MANIFEST} differs from the recorded size or SHA-256")
            content = json.loads((folder / VALUES).read_text(encoding="utf-8"))
            if content["step"] != step:
                raise ValueError(f"it is the checkpoint of step {content['step']}")
            return load_file(folder / DATA), content["values"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise ValueError(f"checkpoint {folder} cannot be read: {error}") from error

    def newest(self) -> Newest:
        """The newest checkpoint that is whole."""
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                return Newest(step, self.load(step), damaged)
            except ValueError as error:
                damaged[step] = str(error)
        return Newest(damaged=damaged)

    def has_remains(self) -> bool:
        """Whether a checkpoint was ever written here."""
        return bool(self.steps()) or self.record.exists()

    def set_aside(self, step: int, why: str) -> Path:
        """Rename the checkpoint of ``step`` to ``<why>-step_N``, where it no longer counts; returns the new path.

        An earlier one of that name is removed.
        """
        path = self.path(step)
        aside = path.with_name(f"{why}-{path.name}")
        if aside.exists():
            remove_folder(aside)
        os.replace(path, aside)
        return aside


def non_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the floating tensors that hold a NaN or an infinity."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def _manifest(folder: Path) -> dict[str, Any]:
    files = {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)} for n in (VALUES, DATA)}
    return {"format": FORMAT, "files": files}


def _entry(manifest: Any, name: str) -> Any:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    return files.get(name) if isinstance(files, dict) else None


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
