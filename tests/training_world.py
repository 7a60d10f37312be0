"""A task small enough to train in milliseconds: fit y = A x by two parameter groups, with noise from the generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmprime.training.schema import Config, RunConfig, TrainConfig
from mmprime.training.task import Task


class LineTask(Task):
    """Regression with a batch of noise a step; group "tail" has a loss of its own."""

    name = "line"
    best_metric = "error"

    def __init__(self, poison_step: int | None = None) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(50, 6, generator=generator)
        self.y = self.x @ torch.randn(6, 3, generator=generator)
        torch.manual_seed(1)
        self.modules = nn.ModuleDict({"head": nn.Linear(6, 3), "tail": nn.Linear(3, 3)})
        self.num_examples = len(self.x)
        self.poison_step = poison_step
        self.seen: list[Tensor] = []

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(module.parameters()) for name, module in self.modules.items()}

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Any:
        self.seen.append(indices)
        noise = 0.1 * torch.randn(len(indices), 6, generator=generator) + 0.01 * torch.randn(len(indices), 6)
        out = self.modules["head"](self.x[indices] + noise)
        loss = ((out - self.y[indices]) ** 2).mean()
        if step == self.poison_step:
            loss = loss * float("nan")
        yield "head", loss, {"error": float(loss.detach())}
        yield "tail", ((self.modules["tail"](out) - self.y[indices]) ** 2).mean(), {}

    def validate(self, generator: torch.Generator) -> dict[str, float]:
        torch.randn(3)  # the global generator must not feel this
        return {"error": float(((self.modules["head"](self.x) - self.y) ** 2).mean())}

    def inspect(self, indices: Tensor) -> dict[str, Tensor]:
        return {"x": self.x[indices]}

    def write_samples(self, directory: Path, step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{step}.txt").write_text("sample\n")

    def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)


def small_config(directory: Path, **train: Any) -> Config:
    """12 steps of batch 8, everything every few steps."""
    settings: dict[str, Any] = {
        "steps": 12, "batch": 8, "lr": 0.05, "warmup": 2, "ema": 0.9, "log_every": 5,
        "validate_every": 4, "samples_every": 6, "save_every": 3, "keep_last": 2,
    }  # fmt: skip
    return Config(task="line", run=RunConfig(dir=str(directory)), train=TrainConfig(**{**settings, **train}))


def weights(task: Any) -> dict[str, Tensor]:
    """A copy of the task's state."""
    return {name: value.clone() for name, value in task.modules.state_dict().items()}
