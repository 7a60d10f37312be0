"""Steering by a black box that rates complete examples: Feynman-Kac particles.

    target  ∝ p(x) exp(λ s(x));      after every few steps, over the M particles of an example:
    w_m = exp(λ (s(draft_m) - s(draft_m before))),      particles ∼ w / Σ w

A draft is the particle completed in one step. The weights along a particle's line multiply to exp(λ s(x)), so whatever
the drafts are like, the law of the example returned tends to the target as M grows (at finite M it lies between the
model's law and the target). Source: Singhal et al., arXiv 2501.06848 (difference potential).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .canvas import Canvas
from .codec import MASK_ID
from .denoiser import Condition, Denoiser
from .guidance import Guidance
from .plan import ABSENT, Plan
from .rng import Randomness, categorical, generators, uniforms
from .run import Run
from .sampling import Sample, begin, sample

_STEER_STREAM, _DRAFT_STREAM = 4, 5


def steer(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan,
    score: Callable[[Tensor], Tensor],
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
    """Like `sample`, with `particles` copies of each row, resampled after every `every` steps of the plan.

    score: rows y (R, N), complete but for what the plan leaves absent -> (R,). nfe counts all particles and drafts.
    Raises ValueError on particles or every < 1, a scale or scores that are not finite, and where `sample` does.
    """
    if particles < 1 or every < 1:
        raise ValueError(f"particles and every must be at least 1, got {particles} and {every}")
    rows = torch.arange(len(plan.rank)).repeat_interleave(particles)
    streams = generators(generator, len(plan.rank), _STEER_STREAM)
    own = [each for stream in streams for each in generators(stream, particles, _STEER_STREAM)]
    run = begin(
        denoiser, canvas, Plan(plan.rank[rows], plan.num_steps), None if given is None else given[rows],
        guidance, temperature, top_p, own,
        cond=None if cond is None else {name: value[rows] for name, value in cond.items()},
    )  # fmt: skip
    ...


...