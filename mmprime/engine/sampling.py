"""Sampling executes a plan, or follows a policy that makes its plan on the way.

    for k = 1..K:   hidden = denoiser(y);   for each token with sub-tokens of rank k:
                    v ~ p(v | hidden, visible digits of the token),   reveal the digits of rank k of v

Drawing the whole code and revealing part of it draws exactly from the marginal of the joint; what is visible never
changes and no code that does not exist can come out (carry-over by construction). An example is forwarded only at
steps where it reveals something, so there is no idle call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .canvas import Canvas
from .codec import MASK_ID
from .denoiser import Condition, Denoiser
from .guidance import Guidance, guide
from .plan import ABSENT, Plan
from .policy import Policy
from .policy_rollout import PolicyRun
from .rng import Randomness, generators
from .rollout import Drawing, PlanRun, Run

_SAMPLE_STREAM = 2


@dataclass(frozen=True)
class Trace:
    """y: (K, B, N) the state after each step. confidence, entropy: (B, N) of the token's law when the digit was drawn.

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


StepCallback = Callable[[int, Tensor], None]


def sample(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan | Policy,
    given: Tensor | None = None,
    guidance: float | Guidance | None = None,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
    generator: Randomness = None,
    trace: bool = False,
    *,
    cond: Condition | None = None,
    on_step: StepCallback | None = None,
    batch: int = 1,
    absent: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Sample:
    """Draw one example for each row of the plan.

    given (B, N): values where the plan has rank 0, `MASK_ID` elsewhere; with a policy every value that is given counts
    as rank 0, and without `given` there are `batch` empty examples. absent (N,) bool: with a policy, what stays hidden
    (a plan says so itself). guidance: classifier-free scale w (0 or None is
    off) or a `Guidance`. temperature: a number or one for each sub-token (N,), 0 is greedy; top_p in (0, 1] applies
    to whole tokens. generator: a seed, a generator, or one for each example; a sample depends on its own stream only.
    on_step(k, y) is called after step k. state: of a run of the same request (`Run.state`), to go on from there.
    Raises ValueError on a temperature < 0, top_p outside (0, 1], given values that do not match the plan's rank 0, and
    on logits that are NaN, +inf or -inf for every code, naming span and token.
    """
    run = begin(
        denoiser, canvas, plan, given, guidance, temperature, top_p, generator,
        cond=cond, batch=batch, absent=absent, state=state,
    )  # fmt: skip
    history = []
    while run.step():
        if trace:
            history.append(run.y.clone())
        if on_step is not None:
            on_step(run.number, run.y)
    record = Trace(torch.stack(history) if history else run.y[None][:0], run.confidence, run.entropy) if trace else None
    return Sample(run.y, run.rank, run.nfe, run.idle_steps, record)


def stream(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan | Policy,
    given: Tensor | None = None,
    guidance: float | Guidance | None = None,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
    generator: Randomness = None,
    **more: Any,
) -> Iterator[Run]:
    """The same, step by step: yields the run after each step, to be looked at (`run.y`), saved (`run.state()`) or left.

    The arguments are those of `begin`. The run is one object that changes; copy what is to stay.
    """
    run = begin(denoiser, canvas, plan, given, guidance, temperature, top_p, generator, **more)
    while run.step():
        yield run


def begin(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan | Policy,
    given: Tensor | None = None,
    guidance: float | Guidance | None = None,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
    generator: Randomness = None,
    *,
    cond: Condition | None = None,
    batch: int = 1,
    absent: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Run:
    """A run before its first step, or as `state` left it; the arguments and errors are those of `sample`."""
    drawing = Drawing(temperature, top_p)
    if isinstance(plan, Policy):
        rank = _first_rank(canvas, given, batch, absent)
    elif absent is not None:
        raise ValueError("a plan itself says what is absent (rank -1); absent is for policies")
    else:
        rank = plan.rank if given is None else plan.rank.to(given.device)
    y = _start(canvas, rank, given)
    denoiser, cond = guide(denoiser, canvas, rank, cond, guidance)
    streams = generators(generator, len(y), _SAMPLE_STREAM)
    run: Run = (
        PolicyRun(denoiser, canvas, plan, y, rank > 0, streams, drawing, cond)
        if isinstance(plan, Policy)
        else PlanRun(denoiser, canvas, plan, y, streams, drawing, cond)
    )
    if state is not None:
        run.load_state(state)
    return run


def _first_rank(canvas: Canvas, given: Tensor | None, batch: int, absent: Tensor | None) -> Tensor:
    """(B, N): 0 where given, -1 where absent, 1 where a policy is free."""
    if given is None:
        given = torch.full((batch, canvas.num_subtokens), MASK_ID)
    canvas.check(given)
    rank = torch.where(given >= 0, 0, 1)
    return rank if absent is None else rank.masked_fill(absent.to(rank.device) & (rank > 0), ABSENT)


def _start(canvas: Canvas, rank: Tensor, given: Tensor | None) -> Tensor:
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
