"""What a trained cell of a study is worth: bounds, samples, idle steps and size, by its averaged weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from mmprime.cli.console import parse_sampler
from mmprime.engine import MASK_ID, Canvas, Plan, Schedule, generator_of
from mmprime.evaluation import Measure, stamp
from mmprime.evaluation.likelihood import Effort, Sizes, measures
from mmprime.evaluation.provenance import data_hash, tensor_hash
from mmprime.evaluation.sample_quality import PictureJudge, TextJudge
from mmprime.generation.sampling import Draw, draw_rows
from mmprime.tokenizers import ImageTokenizer
from mmprime.training.config import resolve
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

from .spec import Judging

IDLE_PLANS = 256  # draws behind a share of idle steps


@torch.no_grad()
def judge(trainer: Trainer, judging: Judging) -> tuple[list[Measure], dict[str, Tensor]]:
    """The rows of a trained cell, by its averaged weights, and the nats (n,) of each example behind its likelihoods."""
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
    nats: dict[str, Tensor] = {}
    task.modules.eval()
    with trainer.ema.swapped_in():
        found = list(
            measures(
                task.modules, canvas, y0, law, judging.steps, judging.laws,
                finite_laws=judging.finite_laws, only=[judging.task] if judging.task else None, effort=effort,
                place_powers=task.config.objective.place_powers, per_example=nats,
                sizes=Sizes(text_tokens=examples.text_tokens),
            )
        )  # fmt: skip
        drawn = sample_quality(task, judging) if judging.draws else []
        weights = tensor_hash(*[p.detach().float() for p in task.modules.parameters()])
    rows = [*found, *drawn, *idle_share(canvas, law, judging)]
    size = sum(p.numel() for p in task.modules.parameters())
    rows.append(Measure("parameters", size, None, "count", 1, 0, trainer.config.run.seed))
    about = {"model_hash": weights, "data_hash": data_hash(task.config.data.path), "precision": "fp32"}
    return stamp(rows, ema=trainer.config.train.ema or None, **about), nats


def sample_quality(task: DiffusionTask, judging: Judging) -> list[Measure]:
    """Samples of the one span of a cell at each number of steps, by the plan of its law and by each of the samplers;
    row i has the same random streams in every cell."""
    powers, rows = task.config.objective.place_powers, []
    for sampler in ("", *judging.samplers):
        plan, options = parse_sampler(sampler.split() or None)
        for steps in judging.draw_steps:
            draw = Draw(steps, plan, seed=judging.seed, options=options).of_places(powers)
            by = f" by {sampler}" if sampler else ""
            rows += [replace(r, metric=f"{r.metric} in {steps} steps{by}") for r in _drawn(task, judging, draw)]
    return rows


def _drawn(task: DiffusionTask, judging: Judging, draw: Draw) -> list[Measure]:
    """What `judging.draws` samples are worth."""
    empty = torch.full((judging.draws, task.canvas.num_subtokens), MASK_ID)
    found = draw_rows(task.modules, task.canvas, empty, task.config.objective.law, draw)
    nfe, codes = float(found.nfe.double().mean()), task.canvas.unpack(found.y)
    if "image" in codes:
        grid = task.canvas.span("image").grid
        assert grid is not None, "image codes lie on a grid"
        tokenizer = ImageTokenizer.load(resolve(task.config.data.image_tokenizer))
        images = tokenizer.decode(codes["image"].unflatten(1, grid))
        return _picture_judge(judging.pictures).rows(images, nfe, judging.seed)
    words = task.corpus.text_tokenizer
    assert words is not None, "a corpus of texts has a tokenizer"
    return _text_judge().rows([words.decode(row) for row in codes["text"].tolist()], nfe, judging.seed)


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
        plan = Plan.ancestral(canvas, Schedule.linear(), steps, IDLE_PLANS, generator_of(judging.seed), law=law)
        idle = 1 - plan.steps_used.double().mean(-1)
        error = float(idle.std() / len(idle) ** 0.5)
        rows.append(
            Measure(f"idle steps T={steps} {law}", float(idle.mean()), error, "share of steps", len(idle), 0, None)
        )
    return rows
