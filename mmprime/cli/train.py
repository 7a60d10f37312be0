"""Train what a config describes: mmprime train CONFIG [key=value ...]

The same command continues a run that was stopped. Exit codes: 0 done, 2 a mistake in the config or the data (one
line), 1 a loss that is not finite, 75 / 130 / 143 stopped by run.time_limit / Ctrl-C / SIGTERM after saving; all of
them: docs/commands.md.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from . import console
from .errors import REQUEUE


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(
        description="Train what a config describes; the same command continues a run that was stopped.",
        epilog="Several processes: torchrun --nproc-per-node 2 -m mmprime train CONFIG train.accumulate=2",
    )
    parser.add_argument("config", help="a YAML file, or the name of one that ships, such as emoji_t2i")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=100 run.dir=runs/trial")
    parser.add_argument("--dry-run", action="store_true", help="build all, compute one loss, write nothing")
    parser.add_argument(
        "--profile", action="store_true", help="time and trace a few steps into run.dir/profile, keep nothing of them"
    )
    parser.add_argument(
        "--export", type=console.out_folder, metavar="DIR", help="write the model of the newest checkpoint to DIR"
    )
    parser.add_argument("--best", action="store_true", help="with --export: of the one with the lowest held-out loss")
    options = parser.parse_intermixed_args(arguments)
    if options.best and not options.export:
        parser.error("--best: goes with --export DIR")
    if options.dry_run + options.profile + bool(options.export) > 1:
        parser.error("--dry-run, --profile and --export: give one of them")
    return options


def train(options: argparse.Namespace) -> int:
    """Run what is asked; returns the exit code. Raises ValueError, OSError, RunBusy and NonFiniteLoss."""
    options.config = console.config_file(options.config)
    from mmprime.training.config import as_yaml, load_config
    from mmprime.training.run_folder import opened

    config = load_config(options.config, options.overrides)
    if options.export:
        config.run.resume = "must"
    else:
        console.out_folder(config.run.dir)
    with nullcontext() if options.export or options.dry_run else opened(config) as folder:
        for line in config.notices:
            print(line, flush=True)
        from mmprime.training import build

        if options.dry_run:
            print(as_yaml(config), end="")
            for name, value in build.dry_run(config).items():
                print(f"{name}: {value:,.6g}")
            return console.DONE
        trainer = build.build_trainer(config, folder)
        if options.best:
            trainer.to_best()
        if options.export:
            return _export(trainer, Path(options.export))
        return _profile(trainer) if options.profile else _train(trainer, config)


def _train(trainer: Any, config: Any) -> int:
    from mmprime.training import distributed

    main_process = trainer.world.is_main
    if main_process:
        counts = {name: sum(p.numel() for p in group) for name, group in trainer.groups.items()}
        sizes = ", ".join(f"{name} {count:,} parameters" for name, count in counts.items())
        print(f"{config.run.dir}: {trainer.task.num_examples:,} examples, {sizes}, on {trainer.device}", flush=True)
        for line in trainer.task.notices:
            print(line, flush=True)
    outcome = trainer.run()
    if outcome.stopped:
        distributed.stop(trainer.world)
        return REQUEUE if outcome.signal is None else 128 + outcome.signal
    directory = Path(config.run.dir) / "model"
    trainer.export(directory)
    if main_process:
        if conclusion := trainer.task.conclude(outcome.metrics):
            print(conclusion)
        print(f"model: {directory}")
        if trainer.at.best_step not in (None, trainer.at.step):
            best = f"lowest held-out loss: step {trainer.at.best_step}"
            print(f"{best}; its model is written by the same command with --export DIR --best")
    distributed.stop(trainer.world)
    return console.DONE


def _export(trainer: Any, directory: Path) -> int:
    trainer.export(directory)
    print(f"step {trainer.at.step}: model written to {directory}")
    return console.DONE


def _profile(trainer: Any) -> int:
    from mmprime.training import distributed, profiling

    folder = profiling.profile_run(trainer)
    if trainer.world.is_main:
        print((folder / "summary.md").read_text(encoding="utf-8"))
        print(f"profile: {folder}/summary.md, {folder}/trace.json.gz")
    distributed.stop(trainer.world)
    return console.DONE


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(lambda: train(parse(arguments)))
