"""Sampling rows that are partly known: what every request to a pipeline comes down to.

Every example has random streams of its own for its plan and its draws, so it depends on its seed alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmprime.engine import (
    MASK_ID,
    Canvas,
    Condition,
    Denoiser,
    Guidance,
    Region,
    Rollout,
    Sample,
    Sampler,
    Trace,
    begin,
    default_sampler,
    masking_of,
    mix,
    sampler_of,
    seeded,
)  # fmt: skip
from mmprime.engine.samplers import Regions, with_steps
from mmprime.engine.samplers.regions import guidance_scales, temperatures
from mmprime.io import ticks

_PLAN_STREAM, _VALUE_STREAM, _EDIT_STREAM, _LABEL_STREAM = 1, 2, 3, 5
AT_ONCE = 64
_DEFAULT = default_sampler("nested")  # where a pipeline has not put its own


@dataclass(frozen=True)
class SamplingConfig:
    """How to sample. sampler: an object or a name, None the model's own; steps None: the sampler's. guidance: a scale
    (linear schedule) or a `Guidance`; 0 or None is off, and a step at which it acts takes two forward passes. seed may
    be one for each example. pause: the step to stop after, or the name of a region to stop after when all of it is
    revealed. progress: show a bar. on_step: called with the rollout after each of its steps, of every `AT_ONCE`
    examples. Raises ValueError on an unknown sampler and on numbers out of range.
    """

    sampler: Sampler | str | None = None
    steps: int | None = None
    guidance: float | Guidance | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | Sequence[int] = 0
    trace: bool = False
    pause: int | str | None = None
    progress: bool = False
    on_step: Callable[[Rollout], None] | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 1):
            raise ValueError(f"steps={self.steps}: a run has at least 1 step")
        if not (isinstance(self.temperature, int | float) and 0 <= self.temperature < math.inf):
            raise ValueError(f"temperature={self.temperature} must be a finite number >= 0")
        if isinstance(self.sampler, str):
            object.__setattr__(self, "sampler", sampler_of(self.sampler))

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions with rules of their own."""
        return self.sampler.parts if isinstance(self.sampler, Regions) else ()

    def chosen(self, default: Sampler) -> Sampler:
        """The sampler with its steps; `default` where none is named."""
        sampler = self.sampler if isinstance(self.sampler, Sampler) else default
        return sampler if self.steps is None else with_steps(sampler, self.steps)


def steps_of(sampler: Sampler) -> int | None:
    """Its number of steps; None where it decides it itself."""
    return getattr(sampler, "steps", None)


def half_known_warning(config: SamplingConfig, canvas: Canvas, trained_on: Sequence[str]) -> str | None:
    """What is wrong with sampling so, though it can be done: half-known tokens for a model that never saw one."""
    sampler, several = config.chosen(_DEFAULT), any(span.codec.num_digits > 1 for span in canvas.spans)
    known = {masking_of(name).whole_tokens for name in trained_on}
    if known != {True} or not several or sampler.whole_tokens:
        return None
    return (
        f"the model was trained on whole tokens only, and sampler {sampler.name!r} shows parts of tokens; "
        "token_synchronous and the option unit=token (by default of p2, remdm) do not"
    )


@dataclass(frozen=True)
class Paused:
    """A rollout that stands between two steps, and the request it belongs to.

    y0 (B, N): what was given; state: of `mmprime.engine.Rollout`; config: with its sampler; the rest as in
    `sample_rows`. prompts: of each example. kept: an image (3, H, W) and a box (x0, y0, x1, y1) of codes, or
    codes (h, w) bool, outside which its pixels stay.
    """

    y0: Tensor
    state: Mapping[str, Tensor]
    config: SamplingConfig
    absent: Tensor | None = None
    cond: Condition | None = None
    prompts: tuple[str, ...] = ()
    kept: tuple[Tensor, tuple[int, int, int, int] | Tensor] | None = None

    @property
    def step(self) -> int:
        """Steps that are done."""
        return int(self.state["number"])


@dataclass(frozen=True)
class Result(Sample):
    """A sample (y, rank, nfe, idle_steps and, where asked for, its trace), the seconds it took, and what to go on from
    if the rollout was stopped before its end."""

    seconds: float = 0.0
    paused: Paused | None = None


@dataclass(frozen=True, kw_only=True)
class Pictures(Result):
    """images (B, 3, H, W) in [0, 1], codes (B, h, w), -1 where they are not wholly known yet (digits (B, h, w, S) where
    there are more codes than integers), and the prompt of each ("" without one)."""

    images: Tensor
    codes: Tensor
    prompts: list[str]


@dataclass(frozen=True, kw_only=True)
class Texts(Result):
    """texts: of the text span, `___` for what is not known yet."""

    texts: list[str]


def sample_rows(
    model: Denoiser,
    canvas: Canvas,
    y: Tensor,
    config: SamplingConfig,
    absent: Tensor | None = None,
    cond: Condition | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Result:
    """Sample what is masked (-1) in the rows y (B, N), `AT_ONCE` rows at a time; `config` names its sampler.

    absent: (N,) sub-tokens that stay masked. cond: (B,) tensors by name. state: of a rollout that was paused, to go on
    from. Raises ValueError where the sampler does not fit, or on another number of seeds than rows.
    """
    if (config.pause is not None or state is not None) and len(y) > AT_ONCE:
        raise ValueError(f"{len(y)} examples cannot be paused, at most {AT_ONCE}; ask for fewer")
    seeds = each_seed(config.seed, len(y))
    start = time.perf_counter()
    parts = torch.arange(len(y), device=y.device).split(AT_ONCE)
    steps = steps_of(config.chosen(_DEFAULT))
    left = ticks("sampling", "step", None if steps is None else len(parts) * steps, config.progress)
    rollouts: list[Rollout] = []
    histories: list[list[Tensor]] = []
    for rows in parts:
        picked = [seeds[row] for row in rows.tolist()]
        rollout = _begin(model, canvas, y[rows], config, picked, absent, _pick(cond, rows), state)
        last, states = _last_step(config, rollout), []
        while rollout.number != last and rollout.step():
            left.update()
            if config.on_step is not None:
                config.on_step(rollout)
            if config.trace:
                states.append(rollout.y.clone())
        rollouts.append(rollout)
        histories.append(states)
    left.close()
    seconds = time.perf_counter() - start

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(rollout, name) for rollout in rollouts])

    under_way = any(rollout.under_way for rollout in rollouts)
    paused = Paused(y, rollouts[0].state(), config, absent, cond) if under_way else None
    history = _join_histories(histories) if config.trace else None
    trace = None if history is None else Trace(history, joined("confidence"), joined("entropy"))
    return Result(joined("y"), joined("rank"), joined("nfe"), joined("idle_steps"), trace, seconds, paused)


def resume_rows(
    model: Denoiser, canvas: Canvas, paused: Paused, remask: Tensor | None = None, y: Tensor | None = None
) -> Result:
    """Finish a paused rollout. Left as it is, the samples are those of one that was never paused.

    remask: (N,) sub-tokens to be masked and drawn again; y: the rows (B, N) after an edit, -1 where masked. After
    either, what is masked is planned anew over the steps that are left, without windows.
    """
    config = paused.config
    if remask is None and y is None:
        return sample_rows(model, canvas, paused.y0, config, paused.absent, paused.cond, paused.state)
    y = paused.state["y"] if y is None else y
    y = y if remask is None else y.masked_fill(remask.to(y.device), MASK_ID)
    if paused.absent is not None:
        y = y.masked_fill(paused.absent.to(y.device), MASK_ID)
    seeds = [mix(seed, _EDIT_STREAM, paused.step) for seed in each_seed(config.seed, len(y))]
    sampler = config.chosen(_DEFAULT)
    left = max(1, (steps_of(sampler) or 1) - paused.step)
    sampler = sampler.rest if isinstance(sampler, Regions) else sampler
    config = replace(config, seed=seeds, sampler=with_steps(sampler, left), steps=None)
    return sample_rows(model, canvas, y, config, paused.absent, paused.cond)


def _begin(
    model: Denoiser,
    canvas: Canvas,
    y: Tensor,
    config: SamplingConfig,
    seeds: Sequence[int],
    absent: Tensor | None,
    cond: Condition | None,
    state: Mapping[str, Tensor] | None,
) -> Rollout:
    return begin(
        model,
        canvas,
        config.chosen(_DEFAULT),
        y,
        seeded(*(mix(seed, _VALUE_STREAM) for seed in seeds)),
        plan_generator=seeded(*(mix(seed, _PLAN_STREAM) for seed in seeds)),
        guidance=guidance_scales(canvas, config.regions, config.guidance),
        temperature=temperatures(canvas, config.regions, config.temperature),
        top_p=config.top_p,
        absent=absent,
        cond=cond,
        state=state,
    )


def _pick(cond: Condition | None, rows: Tensor) -> Condition | None:
    return None if cond is None else {name: value[rows.to(value.device)] for name, value in cond.items()}


def _last_step(config: SamplingConfig, rollout: Rollout) -> int | None:
    """The step to stop after, None for the end. Raises ValueError on a region that is not there."""
    if config.pause is None or isinstance(config.pause, int):
        return config.pause
    named = [region for region in config.regions if region.name == config.pause]
    if not named:
        known = ", ".join(region.name for region in config.regions) or "none"
        raise ValueError(f"no region {config.pause!r} to pause after; there are {known}")
    return int(rollout.memory["rank"][:, named[0].mask].max())


def random_labels(count: int, seed: int | Sequence[int], num: int) -> Tensor:
    """(num,) one of `count` classes for each example, by the seed of each."""
    return torch.tensor([mix(each, _LABEL_STREAM) % count for each in each_seed(seed, num)])


def each_seed(seed: int | Sequence[int], count: int) -> list[int]:
    """One of each example. Raises ValueError on another number of seeds than examples."""
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
