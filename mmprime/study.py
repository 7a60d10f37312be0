"""A study: the same training and the same judging for many cells, so that only what a cell changes differs.

    cell = base × one choice of every axis (or one of the `extra` choices) × seed

A study is a YAML file:

    dir: runs/NAME                      one folder a cell
    results: docs/studies/NAME          CELL.json when a cell is done
    bases: {NAME: {config: FILE, VALUE: ...}}      a training config each; values fill {VALUE} in the overrides,
                                                   `judge: {...}` overrides what is judged
    seeds: [0, 1, 2]
    axes: {AXIS: {CHOICE: [overrides]}}            overrides of the training config, as on tools/train.py
    extra: {CHOICE: [overrides]}                   cells beside the product of the axes
    judge: {limit: 256, samples: 4, steps: [1, 4, 16], laws: [token_synchronous],
            draws: 128, draw_steps: [4, 16], pictures: FOLDER}

A cell that is done is not run again; one that was stopped goes on. Judged is the first split of data.validation, on the
same examples with the same hidden counts and uniforms in every cell, so that rows can be compared in pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from mmprime.build import build_trainer
from mmprime.drawing import Draw, draw_rows
from mmprime.engine import MASK_ID, Canvas, Plan, Schedule
from mmprime.evaluation import Measure, read_rows, stamp, to_json
from mmprime.evaluation.likelihood import Effort, measures
from mmprime.evaluation.provenance import data_hash, tensor_hash, versions
from mmprime.evaluation.sample_quality import PictureJudge, TextJudge
from mmprime.files import write_text
from mmprime.tokenizers import ImageTokenizer
from mmprime.training.config import load_config, resolve
from mmprime.training.diffusion_task import DiffusionTask
from mmprime.training.loop import Trainer
from mmprime.training.schema import DiffusionConfig

KEYS = {"dir", "results", "bases", "seeds", "axes", "extra", "judge"}
IDLE_PLANS = 256  # draws behind a share of idle steps


@dataclass(frozen=True)
class Judging:
    """How each cell is judged; see `mmprime.evaluation.likelihood.measures`.

    draws: samples drawn at each of `draw_steps` by the plan of the law trained on, and judged; 0 is none. pictures: the
    image dataset that samples of image codes are compared with.
    """

    limit: int = 256
    samples: int = 4
    steps: tuple[int, ...] = (1, 4, 16)
    laws: tuple[str, ...] = ("token_synchronous",)
    task: str = ""
    seed: int = 0
    draws: int = 0
    draw_steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    pictures: str = "assets/emoji"


@dataclass(frozen=True)
class Cell:
    """base: a name of the study; choices: by axis; overrides: of the training config, without seed and folder."""

    base: str
    config: str
    choices: dict[str, str]
    overrides: tuple[str, ...]
    seed: int

    @property
    def law(self) -> str:
        """The law of plans the cell trains on."""
        key = "objective.law="
        named = [each.removeprefix(key) for each in self.overrides if each.startswith(key)]
        return named[-1] if named else DiffusionConfig().objective.law

    @property
    def group(self) -> str:
        """The cell's name without its seed: what is averaged over seeds."""
        return "-".join([self.base, *self.choices.values()])

    @property
    def name(self) -> str:
        """A folder name."""
        return f"{self.group}-s{self.seed}"


@dataclass(frozen=True)
class Study:
    """Raises ValueError on unknown keys and on empty parts."""

    directory: Path
    results: Path
    bases: dict[str, dict[str, Any]]
    seeds: list[int]
    axes: dict[str, dict[str, list[str]]]
    extra: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, file: str | Path) -> Study:
        """Read a study's YAML."""
        if not Path(file).is_file():
            raise ValueError(f"no study at {file}")
        given = OmegaConf.to_container(OmegaConf.load(file))
        if not isinstance(given, dict) or not {"dir", "results", "bases", "seeds"} <= set(given) <= KEYS:
            raise ValueError(f"{file}: a study has the keys {', '.join(sorted(KEYS))}")
        judge = _judging(given.get("judge") or {}, file)
        axes = {
            str(axis): {str(name): list(values) for name, values in choices.items()}
            for axis, choices in (given.get("axes") or {}).items()
        }
        extra = {str(name): list(values) for name, values in (given.get("extra") or {}).items()}
        for about in given["bases"].values():
            about["judge"] = {**judge, **_judging(about.get("judge") or {}, file)}
        return cls(Path(given["dir"]), Path(given["results"]), given["bases"], list(given["seeds"]), axes, extra)

    def cells(self) -> Iterator[Cell]:
        """All cells, seed by seed, so that a study cut short has whole seeds."""
        for seed in self.seeds:
            for base, about in self.bases.items():
                for choices, overrides in self._choices():
                    filled = tuple(each.format(**about) for each in overrides)
                    yield Cell(base, about["config"], choices, filled, seed)

    def _choices(self) -> Iterator[tuple[dict[str, str], list[str]]]:
        for name, overrides in self.extra.items():
            yield {"extra": name}, overrides
        if not self.axes:
            return
        for combination in itertools.product(*[choices.items() for choices in self.axes.values()]):
            names = dict(zip(self.axes, (name for name, _ in combination)))
            yield names, [each for _, overrides in combination for each in overrides]

    def result(self, cell: Cell) -> Path:
        """Where the rows of a cell lie once it is done."""
        return self.results / f"{cell.name}.json"

    def judging(self, base: str) -> Judging:
        """How cells of a base are judged."""
        return Judging(**self.bases[base]["judge"])


def _judging(given: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """Fields of `Judging` as a YAML has them. Raises ValueError on unknown ones."""
    if odd := sorted(set(given) - set(Judging.__dataclass_fields__)):
        raise ValueError(f"{file}: judge has no key {odd[0]!r}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def run_cell(study: Study, cell: Cell, command: str = "") -> list[Measure]:
    """Train and judge a cell, or read what it left; the rows are written when all are there."""
    file = study.result(cell)
    if file.is_file():
        return read_rows(file)
    folder = study.directory / "cells" / cell.name
    overrides = [*cell.overrides, f"run.dir={folder}", f"run.seed={cell.seed}"]
    trainer = build_trainer(load_config(cell.config, overrides))
    outcome = trainer.run()
    if outcome.signal is not None:
        raise KeyboardInterrupt(f"{cell.name} was stopped at step {outcome.step}; the same command goes on")
    rows = stamp(judge(trainer, study.judging(cell.base)), versions=versions(), command=command)
    write_text(file, to_json(rows))
    return rows


@torch.no_grad()
def judge(trainer: Trainer, judging: Judging) -> list[Measure]:
    """The rows of a trained cell, by its averaged weights."""
    task = trainer.task
    if not isinstance(task, DiffusionTask):
        raise ValueError(f"a study trains diffusion tasks, got a {task.name}")
    if not task.corpus.validation:
        raise ValueError("the config has no data.validation split to judge on")
    examples = next(iter(task.corpus.validation.values()))
    law, canvas = task.config.objective.law, task.canvas
    count = min(judging.limit, len(examples))
    y0 = canvas.pack({name: codes[:count].long() for name, codes in examples.codes.items()}).to(task.device)
    effort = Effort(judging.samples, judging.seed)
    task.modules.eval()
    with trainer.ema.swapped_in():
        found = list(
            measures(
                task.modules, canvas, y0, law, judging.steps, judging.laws,
                only=[judging.task] if judging.task else None, effort=effort,
                place_powers=task.config.objective.place_powers,
            )
        )  # fmt: skip
        drawn = sample_quality(task, judging) if judging.draws else []
        weights = tensor_hash(*[p.detach().float() for p in task.modules.parameters()])
    rows = [*found, *drawn, *idle_share(canvas, law, judging)]
    size = sum(p.numel() for p in task.modules.parameters())
    rows.append(Measure("parameters", size, None, "count", 1, 0, trainer.config.run.seed))
    about = {"model_hash": weights, "data_hash": data_hash(task.config.data.path), "precision": "fp32"}
    return stamp(rows, ema=trainer.config.train.ema or None, **about)


def sample_quality(task: DiffusionTask, judging: Judging) -> list[Measure]:
    """Samples of the one span of a cell at each number of steps; row i has the same random streams in every cell."""
    empty = torch.full((judging.draws, task.canvas.num_subtokens), MASK_ID)
    rows = []
    for steps in judging.draw_steps:
        found = draw_rows(task.modules, task.canvas, empty, task.config.objective.law, Draw(steps, seed=judging.seed))
        nfe = float(found.nfe.double().mean())
        codes = task.canvas.unpack(found.y)
        if "image" in codes:
            grid = task.canvas.span("image").grid
            assert grid is not None, "image codes lie on a grid"
            tokenizer = ImageTokenizer.load(resolve(task.config.data.image_tokenizer))
            images = tokenizer.decode(codes["image"].unflatten(1, grid))
            judged = _picture_judge(judging.pictures).rows(images, nfe, judging.seed)
        else:
            words = task.corpus.text_tokenizer
            assert words is not None, "a corpus of texts has a tokenizer"
            judged = _text_judge().rows([words.decode(row) for row in codes["text"].tolist()], nfe, judging.seed)
        rows += [replace(row, metric=f"{row.metric} in {steps} steps") for row in judged]
    return rows


@cache
def _picture_judge(folder: str) -> PictureJudge:
    return PictureJudge(folder)


@cache
def _text_judge() -> TextJudge:
    return TextJudge()


def idle_share(canvas: Canvas, law: str, judging: Judging) -> list[Measure]:
    """Of ancestral sampling on a uniform grid of T steps: the share of steps at which an example reveals nothing."""
    rows = []
    for steps in judging.steps:
        plan = Plan.ancestral(
            canvas, Schedule.linear(), steps, IDLE_PLANS, torch.Generator().manual_seed(judging.seed), law=law
        )
        idle = 1 - plan.steps_used.double().mean(-1)
        error = float(idle.std() / len(idle) ** 0.5)
        rows.append(
            Measure(f"idle steps T={steps} {law}", float(idle.mean()), error, "share of steps", len(idle), 0, None)
        )
    return rows
