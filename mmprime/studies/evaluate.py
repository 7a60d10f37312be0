"""What a trained cell of a study is worth: bounds, samples, idle steps and size, by its averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from mmprime.engine import MASK_ID, Canvas, Plan, Sampler, Schedule, generator_of
from mmprime.engine.samplers import sampler_from_words
from mmprime.evaluation import Measure, stamp
from mmprime.evaluation.likelihood import Effort, ScoredRows, Sizes, measures
from mmprime.evaluation.provenance import data_hash, tensor_hash
from mmprime.evaluation.quantities import Bounds
from mmprime.evaluation.sample_quality import PictureQuality, TextQuality
from mmprime.generation.sampling import SamplingConfig, sample_rows
from mmprime.tokenizers import load_image_tokenizer
from mmprime.training.config import resolve
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

from .spec import CellEvaluation

IDLE_PLANS = 256  # plans behind a share of idle steps


@torch.no_grad()
def evaluate_cell(trainer: Trainer, asked: CellEvaluation) -> tuple[list[Measure], dict[str, Tensor]]:
    """The rows of a trained cell, by its averaged weights, and the nats (n,) of each example behind its likelihoods."""
    task = trainer.task
    if not isinstance(task, DiffusionTask):
        raise ValueError(f"a study trains diffusion tasks, got a {task.name}")
    if not task.corpus.validation:
        raise ValueError("the config has no data.validation split to measure on")
    nats: dict[str, Tensor] = {}
    task.modules.eval()
    with trainer.ema.swapped_in():
        likelihoods = list(
            measures(
                task.model,
                task.canvas,
                _first_rows(task, asked.limit),
                _bounds(task, asked),
                Effort(asked.samples, asked.seed),
                nats,
            )
        )
        quality = list(_sample_quality(task, asked)) if asked.num else []
        weights = tensor_hash(*[p.detach().float() for p in task.modules.parameters()])
    rows = [*likelihoods, *quality, *idle_rows(task.canvas, task.config.objective.masking, asked)]
    size = sum(p.numel() for p in task.model.parameters())
    rows.append(Measure("parameters", size, None, "count", 1, 0, trainer.config.run.seed))
    about = {"model_hash": weights, "data_hash": data_hash(task.config.data.path), "precision": "fp32"}
    return stamp(rows, ema=trainer.config.train.ema or None, **about), nats


def _first_rows(task: DiffusionTask, limit: int) -> ScoredRows:
    """The first examples of the first split of data.validation."""
    examples = next(iter(task.corpus.validation.values()))
    count = min(limit, len(examples))
    y = task.canvas.pack({name: codes[:count].long() for name, codes in examples.codes.items()}).to(task.device)
    return ScoredRows(y, sizes=Sizes(text_tokens=examples.text_tokens))


def _bounds(task: DiffusionTask, asked: CellEvaluation) -> Bounds:
    goal, tasks = task.config.objective, [asked.task] if asked.task else None
    return Bounds(
        goal.masking, asked.maskings, asked.steps, asked.finite, level_powers=task.objective.level_powers, tasks=tasks
    )


def _sample_quality(task: DiffusionTask, asked: CellEvaluation) -> Iterator[Measure]:
    """Samples of the one span of a cell at each number of steps, in the order of its masking and by each of the
    samplers; row i has the same random streams in every cell."""
    (span,) = task.canvas.spans
    samplers = {"": task.sampling()[span.name].sampler}
    samplers |= {words: sampler_from_words(words.split()) for words in asked.samplers}
    for words, sampler in samplers.items():
        assert isinstance(sampler, Sampler)
        for steps in asked.sampling_steps:
            config = SamplingConfig(sampler, steps, seed=asked.seed)
            by = f" by {words}" if words else ""
            for row in _quality_rows(task, asked, config):
                yield replace(row, metric=f"{row.metric} in {steps} steps{by}")


def _quality_rows(task: DiffusionTask, asked: CellEvaluation, config: SamplingConfig) -> list[Measure]:
    """What `asked.num` samples are worth."""
    masked = torch.full((asked.num, task.canvas.num_subtokens), MASK_ID)
    result = sample_rows(task.model, task.canvas, masked, config)
    nfe, codes = float(result.nfe.double().mean()), task.canvas.unpack(result.y)
    if "image" in codes:
        grid = task.canvas.span("image").grid
        assert grid is not None, "image codes lie on a grid"
        tokenizer = load_image_tokenizer(resolve(task.config.data.image_tokenizer))
        images = tokenizer.decode_tokens(codes["image"].unflatten(1, grid))
        return _picture_quality(asked.pictures).rows(images, nfe, asked.seed)
    words = task.corpus.text_tokenizer
    assert words is not None, "a corpus of texts has a tokenizer"
    return _text_quality().rows([words.decode(row) for row in codes["text"].tolist()], nfe, asked.seed)


@cache
def _picture_quality(folder: str) -> PictureQuality:
    return PictureQuality(folder)


@cache
def _text_quality() -> TextQuality:
    return TextQuality()


def idle_rows(canvas: Canvas, masking: str, asked: CellEvaluation) -> list[Measure]:
    """Of ancestral sampling on a uniform grid of T steps: the share of steps at which an example reveals nothing."""
    rows = []
    for steps in asked.steps:
        streams = generator_of(asked.seed)
        plan = Plan.ancestral(canvas, Schedule.linear(), steps, IDLE_PLANS, streams, masking=masking)
        idle = 1 - plan.steps_used.double().mean(-1)
        error = float(idle.std() / len(idle) ** 0.5)
        name = f"idle steps T={steps} {masking}"
        rows.append(Measure(name, float(idle.mean()), error, "share of steps", len(idle), 0, None))
    return rows
