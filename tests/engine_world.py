"""Plans and views that the tests of the engine make by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmprime.engine import Canvas, Codec, Masking, Plan, Schedule, Span, masking_of, random_order
from mmprime.engine.heads import SoftmaxHead
from mmprime.engine.order import class_priority, halton_priority
from mmprime.engine.plan import plan_streams
from mmprime.engine.rng import Randomness
from mmprime.engine.samplers import Memory, Start, View


def start_of(
    canvas: Canvas,
    batch: int,
    generator: Randomness = None,
    given: Tensor | None = None,
    absent: Tensor | None = None,
) -> Start:
    """What a planned sampler makes its plan of."""
    masks = (canvas.full_mask(mask, batch) for mask in (given, absent))
    heads = {span.name: SoftmaxHead() for span in canvas.spans}
    return Start(canvas, *masks, plan_streams(generator, batch), heads=heads)


def count_plan(
    canvas: Canvas,
    batch: int,
    generator: Randomness = None,
    masking: str | Masking = "independent",
    by: str | Sequence[Tensor] | None = None,
    schedule: Schedule | None = None,
    **options: object,
) -> Plan:
    """A random order, by classes of sub-tokens ("halton" too) or in the order of times, cut by the number of units."""
    streams = plan_streams(generator, batch)
    masks = [options.pop(name, None) for name in ("given", "absent")]
    order = random_order(canvas, masking, batch, streams, *masks)
    if schedule is not None:
        order = order.in_time(schedule)
    if by is not None:
        halton = isinstance(by, str) and by == "halton"
        priority = halton_priority(canvas, streams) if halton else class_priority(canvas, by).expand(batch, -1)
        order = order.by(priority)
    return Plan.by_count(order, **options)


def time_plan(
    canvas: Canvas,
    schedule: Schedule,
    steps: int,
    batch: int,
    generator: Randomness = None,
    masking: str = "independent",
    given: Tensor | None = None,
    absent: Tensor | None = None,
) -> Plan:
    """A random order cut by a grid of times."""
    replace(masking_of(masking), schedule=schedule).check(canvas)
    return Plan.by_time(random_order(canvas, masking, batch, generator, given, absent), schedule, steps)


def line_view(
    feature: Sequence[Sequence[float]],
    step: int = 1,
    left: int | None = None,
    total: int | None = None,
    masked: Sequence[bool] | None = None,
    noise: float = 0.5,
    memory: Memory | None = None,
) -> View:
    """The view of one example of single digits; feature: (F, L)."""
    value = torch.tensor(feature, dtype=torch.float64).T[None]
    length = value.shape[1]
    hidden = torch.ones(1, length, dtype=torch.bool) if masked is None else torch.tensor([masked])
    count = left or int(hidden.sum())
    return View(
        step=step,
        canvas=Canvas([Span("line", length, Codec.base(2, 1))]),
        masked=hidden,
        visible=~hidden,
        candidate=hidden,
        unmasked=~hidden,
        left=torch.tensor([count]),
        total=torch.tensor([total or count]),
        noise=torch.full(hidden.shape, noise, dtype=torch.float64),
        example=torch.tensor([0]),
        feature=value,
        memory=memory or {},
    )
