"""Steering by a black box that rates complete examples: Feynman-Kac particles.

    target ∝ p(x) exp(λ s(x));    every few steps, over the M particles of an example (at the end, one of them):
    w_m ∝ exp(λ s(draft_m) - λ s(draft_m before)),    M particles drawn again in proportion to w

A draft is the particle completed in one step. The weights along a particle's line multiply to exp(λ s(x)), so whatever
the drafts are like, the law of the example returned tends to the target as M grows, from the model's own law at M = 1.
Source: Singhal et al., arXiv 2501.06848 (difference potential); systematic resampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .canvas import Canvas
from .denoiser import Condition, Denoiser
from .guidance import Guidance
from .plan import ABSENT, Plan
from .rng import Randomness, categorical, generators, uniforms
from .rollout import Run
from .sampling import Sample, begin, sample

_STEER_STREAM = 4
Score = Callable[[Tensor], Tensor]


def steer(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan,
    score: Score,
    scale: float,
    particles: int = 4,
    every: int = 4,
    given: Tensor | None = None,
    guidance: float | Guidance | None = None,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
    generator: Randomness = None,
    *,
    cond: Condition | None = None,
) -> Sample:
    """Like `sample`, with `particles` copies of each row of the plan, resampled after every `every` steps.

    score: rows y (R, N), complete but for what the plan leaves absent -> (R,). nfe counts all particles and drafts.
    Raises ValueError on particles or every < 1, a scale that is not finite, a score that is not one finite
    number a row, and where `sample` does.
    """
    if particles < 1 or every < 1:
        raise ValueError(f"particles and every must be at least 1, got {particles} and {every}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}")
    batch = len(plan.rank)
    rows = torch.arange(batch).repeat_interleave(particles)
    streams = generators(generator, batch, _STEER_STREAM)
    own = [each for stream in streams for each in generators(stream, particles, _STEER_STREAM)]
    run = begin(
        denoiser, canvas, Plan(plan.rank[rows], plan.num_steps), None if given is None else given[rows],
        guidance, temperature, top_p, own, cond=None if cond is None else {k: v[rows] for k, v in cond.items()},
    )  # fmt: skip
    before = torch.zeros(batch, particles, dtype=torch.float64)
    while run.step():
        if run.number % every == 0 and run.number < plan.num_steps:
            after = scale * _rate(score, _draft(run, own)).view_as(before)
            chosen = _resample(after - before, particles, streams)
            run.y, before = run.y[chosen], after.flatten()[chosen].view_as(before)
    last = scale * _rate(score, run.y).view_as(before)
    chosen = _resample(last - before, 1, streams)
    nfe, idle = run.nfe.view(batch, particles).sum(-1), run.idle_steps[::particles]
    return Sample(run.y[chosen], run.rank[chosen], nfe, idle)


def _draft(run: Run, streams: list[torch.Generator]) -> Tensor:
    """The rows of a run (R, N) completed in one step, whose forward passes the run is charged with."""
    rank = torch.where(run.y >= 0, 0, torch.where(run.rank > 0, 1, ABSENT))
    drawing = run.drawing
    found = sample(
        run.denoiser, run.canvas, Plan(rank, 1), run.y, None, drawing.temperature, drawing.top_p, streams, cond=run.cond
    )
    run.nfe += found.nfe
    return found.y


def _rate(score: Score, y: Tensor) -> Tensor:
    """(R,) float64. Raises ValueError on another shape or a score that is not finite."""
    scores = score(y).double().cpu()
    if scores.shape != y.shape[:1] or not bool(scores.isfinite().all()):
        raise ValueError(f"the score must give {len(y)} finite numbers, one a row, got shape {tuple(scores.shape)}")
    return scores


def _resample(log_weight: Tensor, count: int, streams: Sequence[torch.Generator]) -> Tensor:
    """(B, M) log weights -> numbers (B * count) among the B * M rows, `count` of each group."""
    batch, particles = log_weight.shape
    place = (torch.arange(count) + uniforms(streams, 1)) / count
    picked = categorical(log_weight.softmax(-1).repeat_interleave(count, 0), place.flatten())
    return picked + particles * torch.arange(batch).repeat_interleave(count)
