"""Executing plans on rows that are partly known: what every request to a pipeline comes down to.

Every example has random streams of its own for its plan and its draws, so it depends on its seed alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmprime.console import ticks
from mmprime.engine import (
    MASK_ID,
    Canvas,
    Condition,
    Denoiser,
    Guidance,
    Plan,
    Policy,
    Region,
    Run,
    begin,
    mix,
    seeded,
)
from mmprime.engine.regional import guidance_scales, temperatures
from mmprime.engine.samplers import Request, build, keeps_tokens_whole

_PLAN_OF_LAW = {"independent": "first_hitting"}
_PLAN_STREAM, _DRAW_STREAM, _EDIT_STREAM = 1, 2, 3
AT_ONCE = 64


@dataclass(frozen=True)
class Draw:
    """How to sample. seed may be one for each example. guidance: a scale (linear schedule) or a `Guidance`; None or 0
    is off, and a step at which it acts takes two forward passes.

    plan: a name of `mmprime.engine.samplers`, with its options; None is the plan of the law the model was trained on.
    steps bounds the forward steps of an example (of policies that decide it themselves it does not). pause: the step to
    stop after, or the name of a region to stop after when all of it is revealed. progress: show a bar.
    """

    steps: int = 16
    plan: str | None = None
    guidance: float | Guidance | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | Sequence[int] = 0
    trace: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    pause: int | str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps={self.steps}: a run has at least 1 step")
        if not (isinstance(self.temperature, int | float) and 0 <= self.temperature < math.inf):
            raise ValueError(f"temperature={self.temperature} must be a finite number >= 0")
        if not (isinstance(self.top_p, int | float) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p={self.top_p!r} must be a number in (0, 1]")
        if not isinstance(self.guidance, int | float | Mapping | Tensor | Guidance | None):
            raise ValueError(f"guidance={self.guidance!r} is no scale")
        if not isinstance(self.pause, int | str | None):
            raise ValueError(f"pause={self.pause!r} is neither a step nor the name of a region")

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions with rules of their own."""
        return tuple(self.options.get("parts", ()))

    def of_places(self, powers: Sequence[float]) -> Draw:
        """Of a model trained under place powers: where no plan is named, digits come in the order of their race."""
        if self.plan is not None or not powers:
            return self
        return replace(self, plan="first_hitting", options={"schedule": f"places:{','.join(map(str, powers))}"})


def warning(draw: Draw, canvas: Canvas, trained_on: Sequence[str]) -> str | None:
    """What is wrong with drawing so, though it can be done: half-known tokens for a model that never saw one."""
    several = any(span.codec.num_digits > 1 for span in canvas.spans)
    strange = set(trained_on) == {"token_synchronous"} and several
    if draw.plan is None or not strange or keeps_tokens_whole(draw.plan, draw.options):
        return None
    return (
        f"the model was trained on whole tokens only, and sampler {draw.plan!r} shows parts of tokens; "
        "token_synchronous, p2, remdm and the option unit=token do not"
    )


@dataclass(frozen=True)
class Paused:
    """A run that stands between two steps, and the request it belongs to.

    y0 (B, N): what was given; state: of `mmprime.engine.Run`; the rest as in `draw_rows`. prompts: of each example.
    kept: an image (3, H, W) and a box (x0, y0, x1, y1) of codes outside which its pixels stay.
    """

    y0: Tensor
    state: Mapping[str, Tensor]
    law: str
    draw: Draw
    absent: Tensor | None = None
    cond: Condition | None = None
    prompts: tuple[str, ...] = ()
    kept: tuple[Tensor, tuple[int, int, int, int]] | None = None

    @property
    def step(self) -> int:
        """Steps that are done."""
        return int(self.state["number"])


@dataclass(frozen=True)
class Result:
    """y (B, N); nfe (B,) forward passes; idle_steps (B,) steps of a plan that revealed nothing; seconds of sampling.

    rank (B, N): the step at which a digit was drawn (for the last time, where it was hidden again), 0 given, -1 never.
    Of a traced draw, else None: history (K, B, N) y after each step; confidence, entropy (B, N) as in
    `mmprime.engine.Trace`. paused: what to go on from, if the run was stopped before its end.
    """

    y: Tensor
    nfe: Tensor
    idle_steps: Tensor
    seconds: float
    rank: Tensor
    history: Tensor | None
    confidence: Tensor | None
    entropy: Tensor | None
    paused: Paused | None


@dataclass(frozen=True)
class Pictures(Result):
    """images (B, 3, H, W) in [0, 1], codes (B, h, w), -1 where they are not wholly known yet, and the prompt of each
    ("" without one)."""

    images: Tensor
    codes: Tensor
    prompts: list[str]


@dataclass(frozen=True)
class Texts(Result):
    """One text for each example, `___` where it is not known yet."""

    texts: list[str]


def draw_rows(
    model: Denoiser,
    canvas: Canvas,
    y: Tensor,
    law: str,
    draw: Draw,
    absent: Tensor | None = None,
    cond: Condition | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Result:
    """Draw what is hidden (-1) in the rows y (B, N), `AT_ONCE` rows at a time.

    law: of the plan when draw.plan is None. absent: (N,) sub-tokens that stay hidden. cond: (B,) tensors by name.
    state: of a run that was paused, to go on from. Raises ValueError on an unknown plan or another number of seeds than
    rows.
    """
    if (draw.pause is not None or state is not None) and len(y) > AT_ONCE:
        raise ValueError(f"{len(y)} examples cannot be paused, at most {AT_ONCE}; ask for fewer")
    seeds = _seeds(draw.seed, len(y))
    start = time.perf_counter()
    runs: list[Run] = []
    histories: list[list[Tensor]] = []
    parts = torch.arange(len(y)).split(AT_ONCE)
    steps_left = ticks("sampling", "step", len(parts) * draw.steps, draw.progress)
    for rows in parts:
        known, own = y[rows], [seeds[row] for row in rows.tolist()]
        plan = make_plan(draw, law, canvas, known, own, absent)
        run = begin(
            model,
            canvas,
            plan,
            given=known,
            guidance=guidance_scales(canvas, draw.regions, draw.guidance),
            temperature=temperatures(canvas, draw.regions, draw.temperature),
            top_p=draw.top_p,
            generator=seeded(*(mix(seed, _DRAW_STREAM) for seed in own)),
            cond=None if cond is None else {name: value[rows] for name, value in cond.items()},
            absent=absent if isinstance(plan, Policy) else None,
            state=state,
        )
        last, shown = _last_step(draw, plan), []
        while run.number != last and run.step():
            steps_left.update()
            if draw.trace:
                shown.append(run.y.clone())
        runs.append(run)
        histories.append(shown)
    steps_left.close()
    seconds = time.perf_counter() - start
    y0 = y
    y, nfe, idle, rank = (
        torch.cat([getattr(run, name) for run in runs]) for name in ("y", "nfe", "idle_steps", "rank")
    )
    paused = Paused(y0, runs[0].state(), law, draw, absent, cond) if any(run.under_way for run in runs) else None
    if not draw.trace:
        return Result(y, nfe, idle, seconds, rank, None, None, None, paused)
    confidence, entropy = (torch.cat([getattr(run, name) for run in runs]) for name in ("confidence", "entropy"))
    return Result(y, nfe, idle, seconds, rank, _join_histories(histories), confidence, entropy, paused)


def resume_rows(
    model: Denoiser, canvas: Canvas, paused: Paused, hide: Tensor | None = None, y: Tensor | None = None
) -> Result:
    """Finish a paused run. Left as it is, the samples are those of a run that was never paused.

    hide: (N,) sub-tokens to be hidden and drawn again; y: the rows (B, N) after an edit, -1 where hidden. After either,
    what is hidden is planned anew over the steps that are left, without windows.
    """
    draw = paused.draw
    if hide is None and y is None:
        return draw_rows(model, canvas, paused.y0, paused.law, draw, paused.absent, paused.cond, paused.state)
    y = paused.state["y"] if y is None else y
    y = y if hide is None else y.masked_fill(hide.to(y.device), MASK_ID)
    if paused.absent is not None:
        y = y.masked_fill(paused.absent.to(y.device), MASK_ID)
    seeds = [mix(seed, _EDIT_STREAM, paused.step) for seed in _seeds(draw.seed, len(y))]
    draw = replace(draw, seed=seeds, steps=max(1, draw.steps - paused.step))
    if draw.plan == "regions":
        order = draw.options.get("rest", "nested")
        draw = replace(draw, plan=order, options={})
    return draw_rows(model, canvas, y, paused.law, draw, paused.absent, paused.cond)


def _last_step(draw: Draw, plan: Plan | Policy) -> int | None:
    """The step to stop after, None for the end. Raises ValueError on a region that is not there."""
    if draw.pause is None:
        return None
    if isinstance(draw.pause, int):
        return draw.pause
    named = [region for region in draw.regions if region.name == draw.pause]
    if not named or isinstance(plan, Policy):
        known = ", ".join(region.name for region in draw.regions) or "none"
        raise ValueError(f"no region {draw.pause!r} to pause after; there are {known}")
    return int(plan.rank[:, named[0].mask].max())


def make_plan(
    draw: Draw, law: str, canvas: Canvas, y: Tensor, seeds: Sequence[int], absent: Tensor | None = None
) -> Plan | Policy:
    """The plan or policy `draw` names, for rows y (B, N) whose visible values are given."""
    streams = seeded(*(mix(seed, _PLAN_STREAM) for seed in seeds))
    request = Request(canvas, len(y), draw.steps, streams, (y >= 0).cpu(), absent)
    return build(draw.plan or _PLAN_OF_LAW.get(law, law), request, draw.options)


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    if isinstance(seed, int):
        return [mix(seed, number) for number in range(count)]
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} examples; give one seed, or one for each")
    return list(seed)


def _join_histories(parts: list[list[Tensor]]) -> Tensor | None:
    """Histories of (B_i, N), K_i of them each -> (max K, ΣB, N), the shorter ones standing still at their end."""
    if not all(parts):
        return None
    steps = max(len(part) for part in parts)
    return torch.cat([torch.stack(part + part[-1:] * (steps - len(part))) for part in parts], 1)
