"""Regions of the canvas, each with a window of the run, an order and a budget of its own, joined to one plan.

    a run of K steps;   region r has the window [a_r, b_r] of it, that is the steps  k:  a_r <= (k-1)/K,  k/K <= b_r
    its units are revealed in its own order, at most `budget` of these steps, evenly spread

What no region names is the rest: it has the whole run. Idle steps are dropped. The order does not look at the data, so
such a plan has a bound like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Canvas
from ..guidance import Guidance
from ..plan import ABSENT, Plan
from .base import CountPlanned, Planned, Start, check_steps
from .nested import Nested

_REST = "the rest"


@dataclass(frozen=True)
class Region:
    """mask (N,) bool; window (start, stop), shares of the run; order: of its units; budget: most steps.

    temperature and guidance None are those of the run. Raises ValueError on a window or a number out of range.
    """

    name: str
    mask: Tensor
    window: tuple[float, float] = (0.0, 1.0)
    order: CountPlanned = field(default_factory=Nested)
    budget: int | None = None
    temperature: float | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        start, stop = self.window
        if not 0 <= start < stop <= 1:
            raise ValueError(f"region {self.name!r}: a window needs 0 <= start < stop <= 1, got {start}, {stop}")
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"region {self.name!r}: a budget of {self.budget} steps reveals nothing; give at least 1")
        if self.temperature is not None and not self.temperature >= 0:
            raise ValueError(f"region {self.name!r}: temperature must be >= 0, got {self.temperature}")

    @property
    def rules(self) -> tuple[object, ...]:
        """All that it says about the sub-tokens it holds."""
        return self.window, self.order, self.budget, self.temperature, self.guidance

    def steps(self, total: int) -> list[int]:
        """The steps of a run of `total` that it may use. Raises ValueError when its window or budget does not fit."""
        first, last = round(self.window[0] * total) + 1, round(self.window[1] * total)
        inside = last - first + 1
        if inside < 1:
            raise ValueError(f"region {self.name!r}: the window {_words(self.window)} holds none of {total} steps")
        if self.budget is not None and self.budget > inside:
            raise ValueError(
                f"region {self.name!r}: a budget of {self.budget} steps, but the window {_words(self.window)} of "
                f"{total} steps holds {inside}"
            )
        count = self.budget or inside
        return [first + (2 * number + 1) * inside // (2 * count) for number in range(count)]


@dataclass(frozen=True)
class Regions(Planned):
    """a window, an order and a budget of steps for each region; what no region names follows `rest`"""

    steps: int = 16
    parts: tuple[Region, ...] = ()
    rest: CountPlanned = field(default_factory=Nested)
    name: ClassVar[str] = "regions"

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def plan(self, start: Start) -> Plan:
        """One plan in which each region follows its own rules. An example of which all is given follows no rule.

        Raises ValueError on regions that overlap with different rules, of which any other example has nothing to
        reveal, or that leave a part of its run without a window.
        """
        free = ~(start.given | start.absent)
        parts = self._parts(start.canvas, free)
        rank = torch.where(start.given, 0, ABSENT)
        for part in parts:
            step = torch.tensor([0, *part.steps(self.steps)])
            away = replace(start, absent=start.absent | ~part.mask & ~start.given)
            ranks = replace(part.order, steps=len(step) - 1).plan(away).rank
            rank = torch.where(free & part.mask, step[ranks.clamp(min=0)], rank)
        return Plan(rank, self.steps).compact()

    def _parts(self, canvas: Canvas, free: Tensor) -> list[Region]:
        """The regions, and the rest where some example has it."""
        parts = disjoint(canvas, self.parts)
        left = ~torch.stack([torch.zeros_like(canvas.mask()), *(part.mask for part in parts)]).any(0)
        under_way = free.any(-1)
        for part in parts:
            idle = (under_way & ~(free & part.mask).any(-1)).nonzero()
            if len(idle):
                raise ValueError(
                    f"region {part.name!r} has nothing to reveal: all of it is given or absent in "
                    f"example {int(idle[0])}"
                )
        has_rest = (free & left).any(-1)
        if bool((under_way & ~has_rest).any()):
            _check_cover(parts, self.steps)
        return [*parts, Region(_REST, left, order=self.rest)] if bool(has_rest.any()) else parts


def disjoint(canvas: Canvas, regions: Sequence[Region]) -> list[Region]:
    """The regions without what an earlier one holds. Raises ValueError on names given twice, empty regions, and an
    overlap of different rules."""
    names = [region.name for region in regions]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two regions are called {twice[0]!r}")
    taken = torch.zeros(canvas.num_subtokens, dtype=torch.bool)
    parts: list[Region] = []
    for region in regions:
        canvas.check(region.mask)
        if not bool(region.mask.any()):
            raise ValueError(f"region {region.name!r} is empty")
        for other in regions[: len(parts)]:
            common = (region.mask & other.mask).nonzero()
            if len(common) and region.rules != other.rules:
                raise ValueError(
                    f"regions {other.name!r} and {region.name!r} overlap (at sub-token {int(common[0])}) with "
                    "different rules; let them be apart, or give both the same"
                )
        parts.append(replace(region, mask=region.mask & ~taken))
        taken |= region.mask
    return [region for region in parts if bool(region.mask.any())]


def temperatures(canvas: Canvas, regions: Sequence[Region], default: float) -> float | Tensor:
    """The temperature of each sub-token (N,) float64, or `default` when no region has its own."""
    parts = disjoint(canvas, regions)
    heated = [(region.mask, region.temperature) for region in parts if region.temperature is not None]
    if not heated:
        return default
    heat = torch.full((canvas.num_subtokens,), default, dtype=torch.float64)
    for mask, temperature in heated:
        heat[mask] = temperature
    return heat


def guidance_scales(canvas: Canvas, regions: Sequence[Region], default: float | Guidance | None) -> Guidance:
    """The guidance of a run: `default`, with the scales that regions have of their own.

    Raises ValueError on a region with guidance that holds a part of a token only: logits are of whole tokens.
    """
    guided = [(region, region.guidance) for region in disjoint(canvas, regions) if region.guidance is not None]
    if not guided:
        return Guidance.of(default)
    scale = Guidance.of(default).scales(canvas)
    for region, guidance in guided:
        inside = torch.zeros(canvas.num_tokens, dtype=torch.int64).index_add_(0, canvas.token_of, region.mask.long())
        if bool(((inside > 0) & (inside < canvas.token_of.bincount())).any()):
            raise ValueError(f"region {region.name!r}: guidance is for whole tokens, not for some of their digits")
        scale[inside > 0] = guidance
    return Guidance(scale, Guidance.of(default).schedule)


def _check_cover(parts: Sequence[Region], steps: int) -> None:
    """Every step lies in some window."""
    covered = torch.zeros(steps + 1, dtype=torch.bool)
    for part in parts:
        covered[round(part.window[0] * steps) + 1 : round(part.window[1] * steps) + 1] = True
    gaps = (~covered[1:]).nonzero()[:, 0].tolist()
    if gaps:
        raise ValueError(
            f"the windows do not cover the run: at step {gaps[0] + 1} of {steps} no region has anything to reveal; "
            "widen a window, or leave a part of the canvas to the rest"
        )


def _words(window: tuple[float, float]) -> str:
    return f"{window[0]:g} to {window[1]:g}"
