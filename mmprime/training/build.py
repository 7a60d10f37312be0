"""The only place where names in a config become objects: task, device, processes, Trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mmprime.models.attention import require_xformers
from mmprime.models.device import find_device

from . import distributed, rng
from .config import ConfigError
from .distributed import World, choose_threads
from .run_folder import RunFolder
from .schema import Config, DiffusionConfig
from .task import Task
from .trainer import Trainer


def build_device(config: Config) -> torch.device:
    """The device ``run.device`` names (this process's own GPU under torchrun); the number of CPU threads is set, told,
    and put into the config."""
    config.run.threads, message = choose_threads(config.run.threads, config.run.dir)
    torch.set_num_threads(config.run.threads)
    if os.environ.get("RANK", "0") == "0":
        print(message, flush=True)
    if config.run.deterministic:
        torch.use_deterministic_algorithms(True)
    device = find_device(config.run.device, "run.device")
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if isinstance(config, DiffusionConfig) and config.model.attention == "xformers":
        require_xformers(device)
    return device


def build_task(config: Any, device: torch.device | str = "cpu", cache: Path | None = None) -> Task:
    """The task of a config, with its data loaded and its model initialised from ``run.seed``.

    ``cache``: folder where what is costly to build (clustered codecs) is kept for the next start; None: built anew.
    """
    rng.seed_globals(config.run.seed, "build")
    if config.task == "toy":
        from .tasks.toy import ToyTask

        return ToyTask(config, device)
    if config.task == "diffusion":
        from .tasks.diffusion import DiffusionTask

        return DiffusionTask.from_config(config, device, cache)
    if config.task == "tokenizer":
        from .tasks.tokenizer import TokenizerTask

        return TokenizerTask(config, device)
    raise ConfigError(f"task={config.task} is unknown")


def build_trainer(config: Any, folder: RunFolder | None = None) -> Trainer:
    """Everything from a config to a Trainer that is ready to run (and has resumed, if there was what to resume).

    ``folder``: of ``run_folder.opened``, where the run's folder is held already.
    """
    device = build_device(config)
    world = distributed.start(device)
    with world.main_first():
        task = build_task(config, device, Path(config.run.dir))
    return Trainer(task, config, world, device, folder)


def dry_run(config: Any) -> dict[str, float]:
    """Build all, compute the losses of the first micro-batch, write nothing; returns sizes and losses."""
    device = build_device(config)
    task = build_task(config, device)
    trainer_order = torch.arange(min(config.train.batch, task.num_examples))
    generator = rng.generator_for("cpu", config.run.seed, "dry run")
    numbers: dict[str, float] = {"examples": task.num_examples}
    for name, parameters in task.parameter_groups().items():
        numbers[f"parameters/{name}"] = sum(p.numel() for p in parameters)
    for name, loss, _ in task.losses(trainer_order, generator, 0):
        numbers[f"loss/{name}"] = float(loss.detach())
    return numbers


__all__ = ["World", "build_device", "build_task", "build_trainer", "dry_run"]
