"""Likelihood bounds of a model on data, each under its own name with its standard error.

    nats/token = Σ_i NELBO_i / Σ_i tokens_i        bits per byte = Σ_i NELBO_i / (ln 2 · Σ_i bytes_i)
    perplexity = exp(nats/token)                   s.e. of a ratio r: sqrt(n/(n-1) Σ_i (a_i - r·b_i)²) / Σ_i b_i

NELBO_i is an unbiased estimate for example i, so every figure but the perplexity (a convex function of one) is an
unbiased bound up to its standard error. Hidden counts are stratified over a batch, which makes the true error smaller
than the one printed. Padding after a caption is part of what is scored, so a caption has the same number of tokens
whatever its length; bits per byte do not depend on that choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmprime.engine import LAWS, Canvas, Condition, Denoiser, joint_loss, mix, nelbo

from .report import Measure

JOINT_LOSS_NOTE = (
    "joint_loss counts a whole token at the rate of one digit; with more than one digit a token it is no bound on the "
    "negative log-likelihood (two equal fair bits: 0.347 where the entropy is ln 2 = 0.693), so it has no perplexity"
)


@dataclass(frozen=True)
class Task:
    """What is scored given what: masks (N,) of sub-tokens, and the spans that are scored."""

    name: str
    scored: tuple[str, ...]
    given: Tensor
    absent: Tensor


@dataclass(frozen=True)
class Sizes:
    """Sizes of each example in other units: UTF-8 bytes of its text (n,), and pixel values of an image."""

    text_bytes: Tensor | None = None
    pixel_values: int | None = None


def tasks(canvas: Canvas) -> list[Task]:
    """All spans at once; with two spans also each given the other."""
    none = torch.zeros(canvas.num_subtokens, dtype=torch.bool)
    names = [span.name for span in canvas.spans]
    if len(names) == 1:
        return [Task(names[0], (names[0],), none, none)]
    single = []
    for name in reversed(names):
        others = " ".join(other for other in names if other != name)
        single.append(Task(f"{name}|{others}", (name,), ~canvas.mask(name), none))
    return [*single, Task("joint", tuple(names), none, none)]


def ratio(amounts: Tensor, sizes: Tensor) -> tuple[float, float | None]:
    """Σ amounts / Σ sizes of n examples and its standard error (None for one example)."""
    amounts, sizes = amounts.double(), sizes.double()
    value = float(amounts.sum() / sizes.sum())
    count = len(amounts)
    if count < 2:
        return value, None
    residual = (amounts - value * sizes).square().sum()
    return value, float((residual * count / (count - 1)).sqrt() / sizes.sum())


@torch.no_grad()
def score(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    task: Task,
    law: str,
    steps: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 64,
    cond: Condition | None = None,
) -> Tensor:
    """The NELBO of each row of y0 (n, N) in nats, (n,) float64 on the CPU; steps None is continuous time."""
    parts = []
    generator = torch.Generator().manual_seed(mix(seed, steps or 0, LAWS.index(law)))
    for rows in torch.arange(len(y0)).split(batch):
        own = None if cond is None else {name: value[rows] for name, value in cond.items()}
        parts.append(
            nelbo(denoiser, canvas, y0[rows], steps, law, task.given, samples, generator, cond=own, absent=task.absent)
        )
    return torch.cat(parts).double().cpu()


@torch.no_grad()
def score_joint_loss(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    task: Task,
    law: str,
    seed: int = 0,
    batch: int = 64,
    cond: Condition | None = None,
) -> Tensor:
    """The joint training loss of each row, (n,) float64. Not a bound; see `JOINT_LOSS_NOTE`."""
    generator = torch.Generator().manual_seed(mix(seed, 99))
    parts = []
    for rows in torch.arange(len(y0)).split(batch):
        own = None if cond is None else {name: value[rows] for name, value in cond.items()}
        parts.append(
            joint_loss(denoiser, canvas, y0[rows], task.given, generator, law=law, cond=own, absent=task.absent)
        )
    return torch.cat(parts).double().cpu()


def measures(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor,
    law: str,
    steps: Sequence[int] = (),
    laws: Sequence[str] = LAWS,
    samples: int = 1,
    seed: int = 0,
    sizes: Sizes | None = None,
    cond: Condition | None = None,
    only: Iterable[str] | None = None,
    batch: int = 64,
) -> Iterator[Measure]:
    """All bounds of y0 (n, N), one task after the other: continuous time under each of `laws`, T steps under `law`.

    law: the law of plans the model was trained on. only: names of the tasks wanted.
    Raises ValueError on an unknown law or task, or data of no example.
    """
    unknown = [each for each in (*laws, law) if each not in LAWS]
    if unknown or not len(y0):
        raise ValueError(
            f"unknown law {unknown[0]!r}; there are {', '.join(LAWS)}" if unknown else "no example to score"
        )
    for task in choose(tasks(canvas), only):
        runs: list[tuple[str, int | None]] = [(each, None) for each in dict.fromkeys([law, *laws])]
        for each, count in [*runs, *[(law, count) for count in steps]]:
            nats = score(denoiser, canvas, y0, task, each, count, samples, seed, batch, cond)
            time = "continuous" if count is None else f"T={count}"
            name = f"nelbo {task.name} {time} {each}"
            yield from _in_units(name, nats, task, canvas, sizes or Sizes(), samples, seed)
        nats = score_joint_loss(denoiser, canvas, y0, task, law, seed, batch, cond)
        value, error = ratio(nats, torch.full_like(nats, _tokens(task, canvas)))
        yield Measure(f"joint_loss {task.name} {law}", value, error, "nats/token, no bound", len(nats), 1, seed)


def choose(known: Sequence[Task], only: Iterable[str] | None) -> list[Task]:
    """The tasks of those names, or all. Raises ValueError on an unknown one."""
    if only is None:
        return list(known)
    by_name = {task.name: task for task in known}
    for name in (wanted := list(only)):
        if name not in by_name:
            raise ValueError(f"no task {name!r} on this canvas; it has {', '.join(by_name)}")
    return [by_name[name] for name in wanted]


def _tokens(task: Task, canvas: Canvas) -> int:
    return sum(canvas.span(name).num_tokens for name in task.scored)


def _in_units(
    name: str, nats: Tensor, task: Task, canvas: Canvas, sizes: Sizes, samples: int, seed: int
) -> Iterator[Measure]:
    """One estimate in every unit that fits it."""
    tokens = torch.full_like(nats, _tokens(task, canvas))
    per_token, error = ratio(nats, tokens)
    yield Measure(name, per_token, error, "nats/token", len(nats), samples, seed)
    bits = nats / math.log(2)
    if task.scored == ("image",):
        yield Measure(name, *ratio(bits, tokens), "bits/code", len(nats), samples, seed)
        if sizes.pixel_values:
            values = torch.full_like(bits, sizes.pixel_values)
            yield Measure(name, *ratio(bits, values), "bits/dimension (of codes)", len(nats), samples, seed)
    if task.scored == ("text",):
        perplexity = math.exp(per_token)
        spread = None if error is None else perplexity * error
        yield Measure(name, perplexity, spread, "perplexity (bound)", len(nats), samples, seed)
        if sizes.text_bytes is not None:
            yield Measure(name, *ratio(bits, sizes.text_bytes), "bits/byte", len(nats), samples, seed)
