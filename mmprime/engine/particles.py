"""Steering by a black box that rates complete examples: Feynman-Kac particles.

    target ∝ p(x) exp(λ s(x));    every few steps, over the M particles of an example (at the end, one of them):
    w_m ∝ exp(λ s(draft_m) - λ s(draft_m before)),    M particles drawn again in proportion to w

A draft is the particle completed in one step. The weights along a particle's line multiply to exp(λ s(x)), so whatever
the drafts are like, the distribution of the example returned tends to the target as M grows, from the model's own at
M = 1.
Source: Singhal et al., arXiv 2501.06848 (difference potential); systematic resampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from .canvas import Canvas
from .denoiser import Denoiser
from .plan import ABSENT, Plan
from .rng import Randomness, categorical, generators, uniforms
from .rollout import Rollout
from .sampling import Sample, SamplingOptions, begin, sample

_STEER_STREAM = 4
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Steering:
    """score: rows y (R, N), complete but for what the plan leaves absent -> (R,); scale: λ; particles: M of each
    example, resampled after every `every` steps. Raises ValueError on particles or every < 1, or a scale not finite."""

    score: Score
    scale: float
    particles: int = 4
    every: int = 4

    def __post_init__(self) -> None:
        if self.particles < 1 or self.every < 1:
            raise ValueError(f"particles and every must be at least 1, got {self.particles} and {self.every}")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be a finite number, got {self.scale}")

    def potential(self, y: Tensor) -> Tensor:
        """λ s(y), (R,) float64. Raises ValueError on another shape or a score that is not finite."""
        scores = self.score(y).double().cpu()
        if scores.shape != y.shape[:1] or not bool(scores.isfinite().all()):
            raise ValueError(f"the score must give {len(y)} finite numbers, one a row, got shape {tuple(scores.shape)}")
        return self.scale * scores


def steer(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan,
    steering: Steering,
    given: Tensor | None = None,
    generator: Randomness = None,
    **options: Unpack[SamplingOptions],
) -> Sample:
    """Like `sample`, with particles of each row of the plan; nfe counts all particles and drafts.

    Raises ValueError where `sample` does and on scores that are not one finite number a row.
    """
    particles = steering.particles
    batch = len(plan.rank)
    rows = torch.arange(batch).repeat_interleave(particles)
    streams = generators(generator, batch, _STEER_STREAM)
    each_stream = [each for stream in streams for each in generators(stream, particles, _STEER_STREAM)]
    if (cond := options.get("cond")) is not None:
        options["cond"] = {name: value[rows.to(value.device)] for name, value in cond.items()}
    copies = Plan(plan.rank[rows.to(plan.rank.device)], plan.num_steps)
    run = begin(
        denoiser, canvas, copies, None if given is None else given[rows.to(given.device)], each_stream, **options
    )
    before = torch.zeros(batch, particles, dtype=torch.float64)
    while run.step():
        if run.number % steering.every == 0 and run.number < plan.num_steps:
            after = steering.potential(_draft(run, each_stream)).view_as(before)
            chosen = _resample(after - before, particles, streams)
            run.y, before = run.y[chosen.to(run.y.device)], after.flatten()[chosen].view_as(before)
    last = steering.potential(run.y).view_as(before)
    chosen = _resample(last - before, 1, streams).to(run.y.device)
    nfe, idle = run.nfe.view(batch, particles).sum(-1), run.idle_steps[::particles]
    return Sample(run.y[chosen], run.rank[chosen], nfe, idle)


def _draft(run: Rollout, streams: list[torch.Generator]) -> Tensor:
    """The rows of a rollout (R, N) completed in one step, whose forward passes the rollout is charged with."""
    rank = torch.where(run.y >= 0, 0, torch.where(run.rank > 0, 1, ABSENT))
    values = run.values
    drafts = sample(
        run.denoiser, run.canvas, Plan(rank, 1), run.y, streams,
        temperature=values.temperature, top_p=values.top_p, cond=run.cond,
    )  # fmt: skip
    run.nfe += drafts.nfe
    return drafts.y


def _resample(log_weight: Tensor, count: int, streams: Sequence[torch.Generator]) -> Tensor:
    """(B, M) log weights -> numbers (B * count) among the B * M rows, `count` of each group."""
    batch, particles = log_weight.shape
    u = (torch.arange(count) + uniforms(streams, 1)) / count
    picked = categorical(log_weight.softmax(-1).repeat_interleave(count, 0), u.flatten())
    return picked + particles * torch.arange(batch).repeat_interleave(count)
