"""Executing plans on rows that are partly known: what every request to a pipeline comes down to.

Every example has random streams of its own for its plan and its draws, so it depends on its seed alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmprime.engine import Canvas, Condition, Denoiser, Guidance, Plan, Policy, Sample, mix, sample
from mmprime.engine.samplers import Request, build

_PLAN_OF_LAW = {"independent": "first_hitting"}
_PLAN_STREAM, _DRAW_STREAM = 1, 2
AT_ONCE = 64


@dataclass(frozen=True)
class Draw:
    """How to sample. seed may be one for each example. guidance: a scale (linear schedule) or a `Guidance`; None or 0
    is off, and a step at which it acts takes two forward passes.

    plan: a name of `mmprime.engine.samplers`, with its options; None is the plan of the law the model was trained on.
    steps bounds the forward steps of an example (of policies that decide it themselves it does not).
    """

    steps: int = 16
    plan: str | None = None
    guidance: float | Guidance | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | Sequence[int] = 0
    trace: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """y (B, N); nfe (B,) forward passes; idle_steps (B,) steps of a plan that revealed nothing; seconds of sampling;
    history (K, B, N) or None: y after each step."""

    y: Tensor
    nfe: Tensor
    idle_steps: Tensor
    seconds: float
    history: Tensor | None


@dataclass(frozen=True)
class Pictures(Result):
    """images (B, 3, H, W) in [0, 1], codes (B, h, w), and the prompt of each ("" without one)."""

    images: Tensor
    codes: Tensor
    prompts: list[str]


@dataclass(frozen=True)
class Texts(Result):
    """One text for each example."""

    texts: list[str]


def draw_rows(
    model: Denoiser,
    canvas: Canvas,
    y: Tensor,
    law: str,
    draw: Draw,
    absent: Tensor | None = None,
    cond: Condition | None = None,
) -> Result:
    """Draw what is hidden (-1) in the rows y (B, N), `AT_ONCE` rows at a time.

    law: of the plan when draw.plan is None. absent: (N,) sub-tokens that stay hidden. cond: (B,) tensors by name.
    Raises ValueError on an unknown plan or another number of seeds than rows.
    """
    seeds = _seeds(draw.seed, len(y))
    start = time.perf_counter()
    parts: list[Sample] = []
    for rows in torch.arange(len(y)).split(AT_ONCE):
        known, own = y[rows], [seeds[row] for row in rows.tolist()]
        plan = make_plan(draw, law, canvas, known, own, absent)
        parts.append(
            sample(
                model,
                canvas,
                plan,
                given=known,
                guidance=draw.guidance,
                temperature=draw.temperature,
                top_p=draw.top_p,
                generator=[torch.Generator().manual_seed(mix(seed, _DRAW_STREAM)) for seed in own],
                trace=draw.trace,
                cond=None if cond is None else {name: value[rows] for name, value in cond.items()},
                absent=absent if isinstance(plan, Policy) else None,
            )
        )
    seconds = time.perf_counter() - start
    history = _join_histories([part.trace.y for part in parts if part.trace is not None])
    y, nfe, idle = (torch.cat([getattr(part, name) for part in parts]) for name in ("y", "nfe", "idle_steps"))
    return Result(y, nfe, idle, seconds, history)


def make_plan(
    draw: Draw, law: str, canvas: Canvas, y: Tensor, seeds: Sequence[int], absent: Tensor | None = None
) -> Plan | Policy:
    """The plan or policy `draw` names, for rows y (B, N) whose visible values are given."""
    streams = [torch.Generator().manual_seed(mix(seed, _PLAN_STREAM)) for seed in seeds]
    request = Request(canvas, len(y), draw.steps, streams, (y >= 0).cpu(), absent)
    return build(draw.plan or _PLAN_OF_LAW.get(law, law), request, draw.options)


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    if isinstance(seed, int):
        return [mix(seed, number) for number in range(count)]
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} examples; give one seed, or one for each")
    return list(seed)


def _join_histories(parts: list[Tensor]) -> Tensor | None:
    """Histories (K_i, B_i, N) -> (max K, ΣB, N), the shorter ones standing still at their end."""
    if not parts:
        return None
    steps = max(len(part) for part in parts)
    return torch.cat([torch.cat([part, part[-1:].expand(steps - len(part), -1, -1)]) for part in parts], 1)
