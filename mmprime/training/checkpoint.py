"""Checkpoints that survive being killed at any moment; safetensors + JSON, no pickle.

    checkpoints/step_00001000/*.safetensors       tensors, see ``saving``
                              state.json          {"step", "values"}
                              manifest.json       size and SHA-256 of the others, written last
    checkpoints.json                              {"newest", "best"}: steps; says that there was a checkpoint

A checkpoint is written under a temporary name, flushed to the disk and renamed, and a step that stands is not written
again, so at no moment is there less than the last whole one. What was torn or altered all the same is told by its
hashes: :meth:`Checkpoints.newest` goes back to the one before. A start begins at the newest whole checkpoint, at step 0
of an empty folder, or not at all: a folder that held checkpoints of which none can be read is never begun anew unasked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmprime.io import remove_folder, sha256, whole_folder, write_text

from .distributed import World
from .run_folder import RunBusy
from .saving import read_tensors, write_tensors

PREFIX = "step_"
VALUES, MANIFEST = "state.json", "manifest.json"
FORMAT = 2
ALONE = World()
State = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass
class Newest:
    """The newest whole checkpoint, if there is one, and why each newer one cannot be read, by step."""

    step: int = 0
    values: dict[str, Any] | None = None
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

    def save(
        self,
        step: int,
        tensors: dict[str, Tensor],
        values: dict[str, Any],
        best: int | None = None,
        world: World = ALONE,
    ) -> Path:
        """Write the checkpoint of ``step``, then :meth:`note` it; returns its folder. ``tensors`` lie on the CPU; all
        processes of ``world`` call this, each with its part."""
        final = self.path(step)
        with ExitStack() as stack:
            folder = world.from_main(lambda: stack.enter_context(whole_folder(final, MANIFEST)))
            write_tensors(folder, tensors, world)
            if world.is_main:
                (folder / VALUES).write_text(json.dumps({"step": step, "values": values}), encoding="utf-8")
            manifest = _manifest(folder, world)
            if world.is_main:
                (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        if world.is_main:
            self.note(step, best)
        return final

    def note(self, step: int, best: int | None = None) -> None:
        """Record that the checkpoint of ``step`` stands, and :meth:`prune`."""
        write_text(self.record, json.dumps({"newest": step, "best": best}) + "\n")
        self.prune(best)

    def prune(self, best: int | None = None) -> None:
        """Delete all checkpoints but the last ``keep_last`` and the one of step ``best``."""
        steps = self.steps()
        for old in sorted(set(steps) - {*steps[-self.keep_last :], best}):
            remove_folder(self.path(old))

    def load(self, step: int) -> dict[str, Any]:
        """The values of one checkpoint; raises ValueError if it is torn or of other content than recorded."""
        folder = self.path(step)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            actual = _manifest(folder)
            if manifest != actual:
                names = sorted({*actual["files"], *_files(manifest)})
                odd = [n for n in names if _files(manifest).get(n) != actual["files"].get(n)]
                raise ValueError(f"{' and '.join(odd) or MANIFEST} differs from the recorded size or SHA-256")
            content = json.loads((folder / VALUES).read_text(encoding="utf-8"))
            if content["step"] != step:
                raise ValueError(f"it is the checkpoint of step {content['step']}")
            return content["values"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"checkpoint {folder} cannot be read: {error}") from error

    def tensors(self, step: int, layout: Callable[[str], Tensor | None] = lambda name: None) -> dict[str, Tensor]:
        """The tensors of a checkpoint that :meth:`load` found whole; ``layout`` as in ``saving.read_tensors``."""
        return read_tensors(self.path(step), layout)

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
        path.rename(aside)
        return aside


def find_start(checkpoints: Checkpoints, mode: str, directory: Path) -> tuple[Newest, list[str]]:
    """What to go on from (no values: step 0), and lines that say what is odd about it.

    ``mode`` is ``run.resume``. Raises ValueError where it forbids what stands in ``directory``, and where a run stood
    there of which no checkpoint can be read.
    """
    newest = checkpoints.newest()
    reasons = list(newest.damaged.values())
    if newest.values is not None:
        if mode == "never":
            raise ValueError(
                f"run.resume=never, but {directory} holds a run at step {newest.step}; take another run.dir"
            )
        return newest, [f"{reason}; going back to step {newest.step}" for reason in reasons]
    why = reasons[0] if reasons else f"{checkpoints.directory} has none"
    if mode == "must":
        raise ValueError(f"run.resume=must, but {checkpoints.directory} has no readable checkpoint: {why}")
    finished = (directory / "model" / "training.json").exists()
    if mode == "auto" and (checkpoints.has_remains() or finished):
        raise ValueError(
            f"{directory} holds a run but no checkpoint that can be read ({why}); nothing was changed. Put a "
            "checkpoint back, or begin again at step 0 by run.resume=never or another run.dir"
        )
    if mode == "never" and reasons:
        return newest, [f"{reason}; beginning at step 0 (run.resume=never)" for reason in reasons]
    if (directory / "log.jsonl").exists():
        return newest, [f"{directory} has a log but no checkpoint was saved yet: beginning at step 0"]
    return newest, []


def clear_the_way(checkpoints: Checkpoints, newest: Newest) -> list[str]:
    """Set aside the checkpoints that cannot be read; returns a line for each. Only the holder of the lock may do so.

    Raises RunBusy if the folder has moved on since ``newest`` was read.
    """
    later = [step for step in checkpoints.steps() if step > newest.step]
    if set(later) - set(newest.damaged):
        raise RunBusy(f"another process has trained in {checkpoints.directory.parent} meanwhile; start again")
    return [f"set aside as {checkpoints.set_aside(step, 'damaged')}" for step in later]


def _manifest(folder: Path, world: World = ALONE) -> dict[str, Any]:
    """Sizes and hashes of all other files; processes share them."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)

    def entry(number: int) -> dict[str, Any]:
        path = folder / names[number]
        return {"bytes": path.stat().st_size, "sha256": sha256(path)}

    return {"format": FORMAT, "files": dict(zip(names, world.share(entry, len(names))))}


def _files(manifest: Any) -> dict[str, Any]:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    return files if isinstance(files, dict) else {}


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
