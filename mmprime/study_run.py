"""Train and judge one cell of a study.

A cell that is done is not run again; one that was stopped goes on. Judged is the first split of data.validation, on the
same examples with the same hidden counts and uniforms in every cell, so that rows can be compared in pairs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mmprime.build import build_trainer
from mmprime.evaluation import Measure, stamp
from mmprime.evaluation.provenance import versions
from mmprime.models import save_codec
from mmprime.study import Cell, DigitsFrom, Study
from mmprime.study_judge import judge
from mmprime.study_store import add_cell, read_table
from mmprime.training.codec_sources import Recipe, make_codec
from mmprime.training.config import load_config
from mmprime.training.diffusion_task import DiffusionTask
from mmprime.training.loop import Trainer


def run_cell(study: Study, cell: Cell, command: str = "") -> list[Measure]:
    """Train and judge a cell, or read what it left; the study's table gets its rows when all are there, and the file
    beside it the nats of each example.

    Its training has a row in CPU seconds, with the making of its digits, unless it was resumed.
    """
    done = read_table(study.results)
    if cell.name in done:
        return done[cell.name]
    folder = study.directory / "cells" / cell.name
    fresh, began = not folder.exists(), time.process_time()
    trainer = _train_cell(cell, study.bases[cell.base].get("span", ""), folder)
    seconds = time.process_time() - began
    rows, nats = judge(trainer, study.judging(cell.base))
    if fresh:
        rows.append(Measure("training", seconds, None, "CPU seconds", 1, 0, cell.seed))
    rows = stamp(rows, versions=versions(), command=command)
    add_cell(study.results, study.lock, cell.name, rows, nats)
    return rows


def _train_cell(cell: Cell, span: str, folder: Path) -> Trainer:
    if cell.digits_from is None:
        return _train(cell, cell.overrides, folder)
    first, total = cell.digits_from, load_config(cell.config, [*cell.overrides, f"run.dir={folder}"]).train.steps
    steps = round(total * first.share)
    overrides: Sequence[str] = (*cell.common, *first.set)
    for number in range(first.rounds):
        place = folder / f"round_{number}"
        # a constant rate: what follows goes on from here
        trainer = _train(cell, [*overrides, f"train.steps={steps}", "train.final_lr_ratio=1"], place)
        digits, model = _digits(first, trainer, span, place)
        kind = [f"model.codec.{span}.kind=stored", f"model.codec.{span}.path={digits}", f"model.init={model}"]
        overrides = [*cell.overrides, *kind]
    return _train(cell, [*overrides, f"train.steps={total - first.rounds * steps}"], folder / "last")


def _train(cell: Cell, overrides: Sequence[str], folder: Path) -> Trainer:
    """Raises KeyboardInterrupt when it was told to stop; it has saved then."""
    trainer = build_trainer(load_config(cell.config, [*overrides, f"run.dir={folder}", f"run.seed={cell.seed}"]))
    outcome = trainer.run()
    if outcome.signal is not None:
        raise KeyboardInterrupt(f"{cell.name} was stopped at step {outcome.step}; the same command goes on")
    return trainer


def _digits(first: DigitsFrom, trainer: Trainer, span: str, folder: Path) -> tuple[Path, Path]:
    """The codec file and the model folder that a round leaves; a codec that is there is kept."""
    model, file = folder / "model", folder / "codec.safetensors"
    if not file.is_file():
        assert isinstance(trainer.task, DiffusionTask), "judged cells are diffusion tasks"
        data = trainer.task.config.data
        trainer.export(model)
        made, about = make_codec(
            Recipe(first.source, data.path, str(model), data.text_tokenizer, span, radices=first.radices)
        )
        save_codec(file, made, about)
    return file, model
