"""Sampling: run a sampler, or execute a plan, on what is given of a canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from .canvas import Canvas
from .codec import MASK_ID
from .denoiser import Denoiser
from .guidance import Guidance, guide
from .plan import Plan
from .rng import Randomness, generators
from .rollout import Rollout, ValueSampling
from .rows import Condition
from .samplers.base import FixedPlan, Sampler, Start

_PLAN_STREAM, _SAMPLE_STREAM = 1, 2


@dataclass(frozen=True)
class Trace:
    """y: (K, B, N) the state after each step. confidence, entropy: (B, N) of the distribution a digit was drawn from.

    Entropy is in nats; both are NaN where nothing was drawn.
    """

    y: Tensor
    confidence: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Sample:
    """y (B, N); rank (B, N) as executed; nfe (B,) real forward passes (a guided step takes two); idle_steps (B,)
    steps of the plan before its last reveal at which the example revealed nothing (skipped, not computed)."""

    y: Tensor
    rank: Tensor
    nfe: Tensor
    idle_steps: Tensor
    trace: Trace | None = None


class SamplingOptions(TypedDict, total=False):
    """What a rollout may be told beside its sampler and what is given.

    guidance: classifier-free scale w (0 or None is off) or a `Guidance`. temperature: a number or one for each
    sub-token (N,), 0 is greedy; top_p in (0, 1] applies to whole tokens, or to
    each digit where the head draws digits. cond: (B, ...) tensors by name. absent (N,)
    bool: what stays masked (a plan says so itself). batch: examples where nothing is given, 1 by default.
    plan_generator: as `generator`, for the plans of planned samplers; by default a stream of the same seed. state: of a
    rollout of the same request, to go on from there.
    """

    guidance: float | Guidance | None
    temperature: float | Tensor
    top_p: float
    cond: Condition | None
    absent: Tensor | None
    batch: int
    plan_generator: Randomness
    state: Mapping[str, Tensor] | None


StepCallback = Callable[[int, Tensor], None]


def sample(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler | Plan,
    given: Tensor | None = None,
    generator: Randomness = None,
    trace: bool = False,
    on_step: StepCallback | None = None,
    **options: Unpack[SamplingOptions],
) -> Sample:
    """Draw an example for each row of `given`, or of the plan.

    given (B, N): known values, `MASK_ID` elsewhere; with a plan exactly where its rank is 0. generator: a seed, a
    generator, or one for each example; a sample depends on its own stream only. on_step(k, y) is called after step k.
    options: see `SamplingOptions`. Raises ValueError on a temperature < 0, top_p outside (0, 1], given values that do
    not match the plan's rank 0, and on logits that are NaN, +inf or -inf for every code, naming span and token.
    """
    rollout = begin(denoiser, canvas, sampler, given, generator, **options)
    history = []
    while rollout.step():
        if trace:
            history.append(rollout.y.clone())
        if on_step is not None:
            on_step(rollout.number, rollout.y)
    states = torch.stack(history) if history else rollout.y[None][:0]
    record = Trace(states, rollout.confidence, rollout.entropy) if trace else None
    return Sample(rollout.y, rollout.rank, rollout.nfe, rollout.idle_steps, record)


def stream(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler | Plan,
    given: Tensor | None = None,
    generator: Randomness = None,
    **options: Unpack[SamplingOptions],
) -> Iterator[Rollout]:
    """The same, step by step: yields the rollout after each step, to be looked at (`.y`), saved (`.state()`) or left.

    The arguments are those of `begin`. The rollout is one object that changes; copy what is to stay.
    """
    rollout = begin(denoiser, canvas, sampler, given, generator, **options)
    while rollout.step():
        yield rollout


def begin(
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: Sampler | Plan,
    given: Tensor | None = None,
    generator: Randomness = None,
    **options: Unpack[SamplingOptions],
) -> Rollout:
    """A rollout before its first step, or as `state` left it; the arguments and errors are those of `sample`."""
    absent = options.get("absent")
    if isinstance(sampler, Plan):
        if absent is not None:
            raise ValueError("a plan itself says what is absent (rank -1); absent is for samplers")
        rank = sampler.rank if given is None else sampler.rank.to(given.device)
        y, sampler = _planned_start(canvas, rank, given), FixedPlan(sampler)
    else:
        y = torch.full((options.get("batch", 1), canvas.num_subtokens), MASK_ID) if given is None else given.clone()
        canvas.check_digits(y)
        rank = torch.where(y >= 0, 0, 1)
        rank = rank if absent is None else rank.masked_fill(absent.to(rank.device) & (rank > 0), -1)
    guided, cond = guide(denoiser, canvas, rank, options.get("cond"), options.get("guidance"))
    streams = generators(generator, len(y), _SAMPLE_STREAM)
    plan_streams = generators(options.get("plan_generator", generator), len(y), _PLAN_STREAM)
    start = Start(canvas, (rank == 0).cpu(), (rank < 0).cpu(), plan_streams)
    values = ValueSampling(options.get("temperature", 1.0), options.get("top_p", 1.0))
    rollout = Rollout(guided, sampler, start, y, streams, values, cond)
    if (state := options.get("state")) is not None:
        rollout.load_state(state)
    return rollout


def _planned_start(canvas: Canvas, rank: Tensor, given: Tensor | None) -> Tensor:
    canvas.check(rank)
    y = torch.full_like(rank, MASK_ID) if given is None else given.clone()
    if y.shape != rank.shape:
        raise ValueError(f"given has shape {tuple(y.shape)}, the plan {tuple(rank.shape)}")
    canvas.check_digits(y)
    clash = (y >= 0) != (rank == 0)
    if clash.any():
        b, n = clash.nonzero()[0].tolist()
        raise ValueError(
            f"sub-token {n} of example {b}: given value {int(y[b, n])} but rank {int(rank[b, n])}; "
            "the plan must give rank 0 to exactly the given sub-tokens"
        )
    return y
