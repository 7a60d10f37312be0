"""Sampling executes a plan, or follows a policy that makes its plan on the way.

    for k = 1..K:   hidden = denoiser(y);   for each token with sub-tokens of rank k:
                    v ~ p(v | hidden, visible digits of the token),   reveal the digits of rank k of v

Drawing the whole code and revealing part of it draws exactly from the marginal of the joint; what is visible never
changes and no code that does not exist can come out (carry-over by construction). An example is forwarded only at
steps where it reveals something, so there is no idle call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .adaptive import PolicyRun
from .canvas import Canvas, Span
from .codec import MASK_ID
from .denoiser import Condition, Denoiser, chunks, token_grid
from .grid import draw, unravel
from .guidance import Guided
from .plan import ABSENT, Plan
from .policy import Policy
from .rng import Randomness, generators, uniforms

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
    """y (B, N); rank (B, N) as executed; nfe (B,) real forward passes (guidance counts twice); idle_steps (B,) steps of
    the plan at which the example revealed nothing (skipped, not computed)."""

    y: Tensor
    rank: Tensor
    nfe: Tensor
    idle_steps: Tensor
    trace: Trace | None = None


StepCallback = Callable[[int, Tensor], None]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    canvas: Canvas,
    plan: Plan | Policy,
    given: Tensor | None = None,
    guidance: float | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: Randomness = None,
    trace: bool = False,
    *,
    cond: Condition | None = None,
    ramp: str = "linear",
    on_step: StepCallback | None = None,
    batch: int = 1,
    absent: Tensor | None = None,
) -> Sample:
    """Draw one example for each row of the plan.

    given (B, N): values where the plan has rank 0, `MASK_ID` elsewhere; with a policy every value that is given counts
    as rank 0, and without `given` there are `batch` empty examples. absent (N,) bool: with a policy, what stays hidden
    (a plan says so itself). guidance: classifier-free scale w (0 or None is
    off), shaped by `ramp`. temperature 0 is greedy; top_p in (0, 1] applies to whole tokens. generator: a seed, a
    generator, or one for each example; a sample depends on its own stream only. on_step(k, y) is called after step k.
    Raises ValueError on a temperature < 0, top_p outside (0, 1], or given values that do not match the plan's rank 0.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be >= 0, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if isinstance(plan, Policy):
        rank = _first_rank(canvas, given, batch, absent)
    elif absent is not None:
        raise ValueError("a plan itself says what is absent (rank -1); absent is for policies")
    else:
        rank = plan.rank if given is None else plan.rank.to(given.device)
    y = _start(canvas, rank, given)
    if guidance:
        guided = Guided(denoiser, guidance, ramp)
        cond = guided.condition(canvas, rank, cond)
        denoiser = guided
    if isinstance(plan, Policy):
        streams = generators(generator, len(y), _SAMPLE_STREAM)
        return _follow(
            PolicyRun(denoiser, canvas, plan, y, rank > 0, streams, temperature, top_p, cond), trace, on_step
        )
    run = _Run(denoiser, canvas, y, rank, temperature, top_p, generator, cond)
    history = []
    for k in range(1, plan.num_steps + 1):
        run.step(k)
        if trace:
            history.append(run.y.clone())
        if on_step is not None:
            on_step(k, run.y)
    used = plan.steps_used.sum(-1).to(y.device)
    record = Trace(torch.stack(history) if history else y[None][:0], run.confidence, run.entropy) if trace else None
    return Sample(run.y, rank, used * getattr(denoiser, "passes_per_call", 1), plan.num_steps - used, record)


def _first_rank(canvas: Canvas, given: Tensor | None, batch: int, absent: Tensor | None) -> Tensor:
    """(B, N): 0 where given, -1 where absent, 1 where a policy is free."""
    if given is None:
        given = torch.full((batch, canvas.num_subtokens), MASK_ID)
    canvas.check(given)
    rank = torch.where(given >= 0, 0, 1)
    return rank if absent is None else rank.masked_fill(absent.to(rank.device) & (rank > 0), ABSENT)


def _follow(run: PolicyRun, trace: bool, on_step: StepCallback | None) -> Sample:
    history, k = [], 1
    while run.step(k):
        if trace:
            history.append(run.y.clone())
        if on_step is not None:
            on_step(k, run.y)
        k += 1
    record = Trace(torch.stack(history) if history else run.y[None][:0], run.confidence, run.entropy) if trace else None
    return Sample(run.y, run.rank, run.nfe, torch.zeros_like(run.nfe), record)


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


class _Run:
    """The state of one sampling run."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        y: Tensor,
        rank: Tensor,
        temperature: float,
        top_p: float,
        generator: Randomness,
        cond: Condition | None,
    ) -> None:
        self.denoiser, self.canvas, self.y, self.rank, self.cond = denoiser, canvas, y, rank, cond
        self.temperature, self.top_p = temperature, top_p
        self.streams = generators(generator, len(y), _SAMPLE_STREAM)
        self.confidence = torch.full(y.shape, torch.nan, dtype=torch.float64, device=y.device)
        self.entropy = self.confidence.clone()

    def step(self, k: int) -> None:
        """Reveal the sub-tokens of rank k; one forward pass of the examples that have any."""
        reveal = self.rank == k
        active = reveal.any(-1).nonzero()[:, 0]
        if not len(active):
            return
        cond = None if self.cond is None else {name: value[active] for name, value in self.cond.items()}
        hidden = self.denoiser(self.y[active], self.canvas, cond)
        u = uniforms([self.streams[b] for b in active.tolist()], self.canvas.num_tokens).to(self.y.device)
        for span in self.canvas.spans:
            self._reveal_span(span, active, reveal[active], hidden, u)

    def _reveal_span(self, span: Span, active: Tensor, reveal: Tensor, hidden: Tensor, u: Tensor) -> None:
        wanted = self.canvas.view(reveal, span.name)  # (A, L, S)
        row, token = wanted.any(-1).nonzero(as_tuple=True)
        where = self.canvas.token_slice(span.name)
        states, u = hidden[:, where][row, token], u[:, where][row, token]
        example = active[row]
        for part in chunks(len(row), span):
            b, i = example[part], token[part]
            shown = self.canvas.view(self.y, span.name)[b, i]
            grid = token_grid(self.denoiser, states[part], span)
            cell, confidence, entropy = draw(grid, shown, u[part], self.temperature, self.top_p)
            chosen = wanted[row[part], i]
            self._write(self.y, span, b, i, chosen, unravel(cell, span.codec.radices))
            self._write(self.confidence, span, b, i, chosen, confidence[:, None].expand(chosen.shape))
            self._write(self.entropy, span, b, i, chosen, entropy[:, None].expand(chosen.shape))

    def _write(self, target: Tensor, span: Span, b: Tensor, i: Tensor, chosen: Tensor, values: Tensor) -> None:
        view = self.canvas.view(target, span.name)  # shares storage with target
        view[b, i] = torch.where(chosen, values, view[b, i])
