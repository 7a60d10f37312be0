"""All that a run is beyond its config: weights, their average, optimizers, position, generators, unlogged numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import rng
from .changes import Change, find_changes, refused
from .checkpoint import State, optimizer_tensors, restore_optimizer, under_prefix, with_prefix
from .config import as_dict
from .log import Window
from .optim import EMA, build_muon, build_optimizer, check_lr_scale
from .schema import Config
from .task import Task

MUON = "muon/"  # before the name of a group: the optimizer of its hidden matrices


@dataclass
class Position:
    """Where a run stands."""

    step: int = 0  # steps done; also the data position
    events_step: int = -1  # the last step whose validation and samples are done
    best_step: int | None = None
    best_value: float = math.inf
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation


class RunState:
    """The state of a run that trains ``task``; a checkpoint is :meth:`collect`, a resume is :meth:`restore`."""

    def __init__(self, task: Task, config: Config) -> None:
        self.task, self.config = task, config
        self.at, self.window = Position(), Window()
        self.groups = task.parameter_groups()
        check_lr_scale(config.train, self.groups)
        self.optimizers = self._optimizers()
        self.ema = EMA(task.modules, config.train.ema)
        self._parameters = dict(task.modules.named_parameters())
        self._names = {id(p): name for name, p in self._parameters.items()}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """AdamW for each group; with train.optimizer=muon the hidden matrices of a group leave it for ``muon/<group>``.

        Raises ValueError if the task has no hidden matrices.
        """
        train = self.config.train
        matrices = self.task.hidden_matrices()
        if train.optimizer == "muon" and not matrices:
            raise ValueError(f"train.optimizer=muon: a {self.task.name} has no hidden matrices to train; use adamw")
        hidden = {id(p) for p in matrices} if train.optimizer == "muon" else set()
        optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, group in self.groups.items():
            optimizers[name] = build_optimizer([p for p in group if id(p) not in hidden], train)
            if matrices_of_group := [p for p in group if id(p) in hidden and p.requires_grad]:
                optimizers[f"{MUON}{name}"] = build_muon(matrices_of_group, train)
        return optimizers

    def collect(self) -> State:
        """(tensors, JSON values) that :meth:`restore` needs."""
        generators, generator_values = rng.capture()
        tensors = with_prefix("model", self.task.modules.state_dict()) | with_prefix("ema", self.ema.average)
        if self.task.world.is_main:
            tensors |= with_prefix("rng", generators)
        for name, optimizer in self.optimizers.items():
            tensors |= with_prefix(f"optimizer/{name}", optimizer_tensors(optimizer, self._names))
        values = {
            "position": vars(self.at) | {"best_value": self.at.best_value if self.at.best_step else None},
            "rng": generator_values,
            "window": self.window.sums,
            "config": as_dict(self.config),
            "fingerprint": self.fingerprint(),
        }
        return tensors, values

    def restore(self, state: State) -> None:
        """Take over what :meth:`collect` gave. Raises ValueError if it belongs to another model."""
        tensors, values = state
        try:
            self.task.modules.load_state_dict(under_prefix("model", tensors))
        except RuntimeError as error:
            raise ValueError(f"it does not fit the configured model: {' '.join(str(error).split())[:300]}") from error
        self.ema.load(under_prefix("ema", tensors))
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, under_prefix(f"optimizer/{name}", tensors), self._names)
        rng.restore(under_prefix("rng", tensors), values["rng"])
        position = values["position"]
        best = math.inf if position["best_value"] is None else position["best_value"]
        self.at = Position(**{**position, "best_value": best})
        self.window = Window(values["window"])

    def layout(self, name: str) -> Tensor | None:
        """The parameter whose weights, average or moments a checkpoint calls ``name``."""
        kind, *rest = name.split("/")
        at = {"model": -1, "ema": -1, "optimizer": -2}.get(kind)
        return None if at is None else self._parameters.get(rest[at])

    def changes(self, values: dict[str, Any]) -> list[Change]:
        """What differs from the config and the data of a checkpoint's ``values``.

        Raises ValueError for a change of what the run learns from that ``run.allow_changes`` does not name.
        """
        current = self.fingerprint()
        changes = find_changes(values["config"], values["fingerprint"], self.config, current)
        if odd := refused(changes, self.config, current):
            names = ",".join(dict.fromkeys(change.key for change in odd))
            others = "; ".join(str(change) for change in changes if change not in odd)
            raise ValueError(
                f"this start would go on with something else than the run began with: {'; '.join(map(str, odd))}"
                f"{' (also changed, and free to: ' + others + ')' if others else ''}. "
                f"Set it back, or say 'run.allow_changes=[{names}]', or take another run.dir"
            )
        return changes

    def fingerprint(self) -> dict[str, str]:
        """Hashes of what the run learns from, by the config key that names it; and the task."""
        return {"task": self.task.name, **self.task.fingerprint()}
