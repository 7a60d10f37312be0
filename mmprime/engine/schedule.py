"""Schedules: α(t), the chance that a sub-token is visible at time t, with its derivative.

    t = 0 clean, t = 1 masked;   α(0) = 1, α(1) = 0, α decreasing
    w(t) = -α'(t) / (1 - α(t))                    the weight of the bound
    τ = α^{-1}(u), u ~ U(0, 1)                    the time at which a sub-token is revealed, going from 1 to 0

Sources: Sahoo et al. (MDLM), arXiv 2406.07524, eq. 10; Shi et al. (MD4), arXiv 2406.04329, table 1 (cosine and
polynomial; vector schedules, section 6). Region-wise: α_r(t) = α(clip((t - a_r) / (b_r - a_r), 0, 1)).

*Level powers*: α_j(t) = 1 - t^{p_j} for digit level j; a larger p is masked later from clean to masked, so revealed
earlier when sampling. With τ = U^{1/p}, -ln τ is exponential of rate p: sub-tokens race to be masked, and going from
t = 1 to 0 the next one revealed of those still masked is n with chance p_n / Σ_masked p (the rates -α'/(1-α) = p/t).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .canvas import Canvas


class AlphaValue(NamedTuple):
    """α(t) and dα/dt."""

    alpha: Tensor
    derivative: Tensor


class Schedule(ABC):
    """A distribution of reveal times. `at` gives α with its derivative, `inverse` gives the time at which α = a."""

    @abstractmethod
    def at(self, t: Tensor) -> AlphaValue:
        """α(t) and α'(t), elementwise (region-wise schedules broadcast t over the last axis N)."""

    @abstractmethod
    def inverse(self, a: Tensor) -> Tensor:
        """The time t with α(t) = a."""

    def alpha(self, t: Tensor) -> Tensor:
        return self.at(t).alpha

    def weight(self, t: Tensor) -> Tensor:
        """w(t) = -α'(t) / (1 - α(t)), and 0 where nothing can be masked (α = 1)."""
        alpha, derivative = self.at(t)
        masked = 1 - alpha
        return torch.where(masked > 0, -derivative / masked.clamp(min=torch.finfo(alpha.dtype).tiny), 0.0)

    @staticmethod
    def linear() -> Schedule:
        """α = 1 - t."""
        return Polynomial(1.0)

    @staticmethod
    def polynomial(power: float) -> Schedule:
        """α = 1 - t^p."""
        return Polynomial(power)

    @staticmethod
    def cosine() -> Schedule:
        """α = 1 - cos(π/2 (1 - t)): few at first, many at the end (MaskGIT)."""
        return Cosine()

    @staticmethod
    def levels(powers: Sequence[float], canvas: Canvas) -> Schedule:
        """α_j = 1 - t^{p_j} with a power for each digit level j; see the module's head.

        The powers belong to the spans with more than one digit a token, which must all have len(powers) digits, and
        spans of one digit have power 1; or there is a power for each level of each span in turn. Raises ValueError on
        another number of powers, or powers that are not > 0.
        """
        digits = {span.name: span.codec.num_digits for span in canvas.spans}
        wanted = list(powers)
        if powers and max(digits.values()) > 1 and all(count in (1, len(powers)) for count in digits.values()):
            wanted = [power for count in digits.values() for power in (powers if count > 1 else [1.0])]
        if len(wanted) != sum(digits.values()) or len(wanted) < 2:
            raise ValueError(
                f"level powers {list(powers)}: one for each digit of the spans with more than one digit, or one for "
                f"each digit of each span in turn; digits of a token are {digits}"
            )
        power = torch.tensor(wanted, dtype=torch.float64)[level_groups(canvas)]
        return RegionSchedule(tuple((power == p, Polynomial(p)) for p in power.unique().tolist()))

    @staticmethod
    def learned(canvas: Canvas, powers: Sequence[float] = ()) -> LearnedPowers:
        """`levels` whose powers are a parameter, from these on (none: all 1); see `learned_powers_loss`."""
        return LearnedPowers(canvas, powers)

    @staticmethod
    def regions(parts: Mapping[str, Schedule] | Sequence[tuple[Tensor, Schedule]], canvas: Canvas) -> Schedule:
        """A schedule for each region: span names, or (mask (N,), schedule) pairs; together they tile the canvas."""
        pairs = (
            [(canvas.mask(name), schedule) for name, schedule in parts.items()]
            if isinstance(parts, Mapping)
            else list(parts)
        )
        return RegionSchedule(tuple(pairs))

    def on(self, canvas: Canvas) -> Schedule:
        """The schedule on a canvas; another one only where it depends on the canvas (`LevelPowers`)."""
        return self

    def window(self, start: float, stop: float) -> Schedule:
        """This schedule squeezed into the times [start, stop] (t = 1 is the beginning of sampling)."""
        return Windowed(self, start, stop)


def level_groups(canvas: Canvas) -> Tensor:
    """(N,) the number of each sub-token's digit level, counted through all spans in turn."""
    sizes = [0, *(span.codec.num_digits for span in canvas.spans)]
    group = canvas.digit_of.clone()
    for number, span in enumerate(canvas.spans):
        group[canvas.subtoken_slice(span.name)] += sum(sizes[: number + 1])
    return group


def schedule_of(word: str) -> Schedule:
    """linear, cosine, polynomial:P, or levels:P,P,... (a power for each digit level) -> the schedule.

    Raises ValueError on another word.
    """
    kind, _, numbers = word.partition(":")
    try:
        powers = [float(power) for power in numbers.split(",")] if numbers else []
        if kind == "levels" and powers:
            return LevelPowers(tuple(powers))
        if kind == "polynomial" and len(powers) == 1:
            return Schedule.polynomial(powers[0])
        if word in ("linear", "cosine"):
            return Schedule.linear() if word == "linear" else Schedule.cosine()
    except ValueError as error:
        raise ValueError(f"schedule {word!r}: {error}") from error
    raise ValueError(f"unknown schedule {word!r}; there are linear, cosine, polynomial:P, levels:P,P,...")


@dataclass(frozen=True)
class LevelPowers(Schedule):
    """`Schedule.levels` before its canvas is known: ask `on(canvas)`."""

    powers: tuple[float, ...]

    def __str__(self) -> str:
        return f"levels:{','.join(f'{power:g}' for power in self.powers)}"

    def on(self, canvas: Canvas) -> Schedule:
        try:
            return Schedule.levels(self.powers, canvas)
        except ValueError as error:
            raise ValueError(f"schedule '{self}': {error}") from error

    def at(self, t: Tensor) -> AlphaValue:
        raise self._on_no_canvas()

    def inverse(self, a: Tensor) -> Tensor:
        raise self._on_no_canvas()

    def _on_no_canvas(self) -> ValueError:
        return ValueError(
            f"schedule '{self}' has an α for each digit level: it orders independent digits (samplers ancestral and "
            "first_hitting), and is no pace of all; on a canvas it is `.on(canvas)`"
        )


@dataclass(frozen=True)
class Polynomial(Schedule):
    power: float

    def __str__(self) -> str:
        return "linear" if self.power == 1 else f"polynomial:{self.power:g}"

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"a polynomial schedule needs a power > 0, got {self.power}")

    def at(self, t: Tensor) -> AlphaValue:
        return AlphaValue(1 - t**self.power, -self.power * t ** (self.power - 1))

    def inverse(self, a: Tensor) -> Tensor:
        return (1 - a) ** (1 / self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    def __str__(self) -> str:
        return "cosine"

    def at(self, t: Tensor) -> AlphaValue:
        angle = math.pi / 2 * (1 - t)
        return AlphaValue(1 - torch.cos(angle), -math.pi / 2 * torch.sin(angle))

    def inverse(self, a: Tensor) -> Tensor:
        return 1 - torch.arccos((1 - a).clamp(-1, 1)) / (math.pi / 2)


@dataclass(frozen=True)
class Windowed(Schedule):
    base: Schedule
    start: float
    stop: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(f"a window needs 0 <= start < stop <= 1, got [{self.start}, {self.stop}]")

    def at(self, t: Tensor) -> AlphaValue:
        width = self.stop - self.start
        alpha, derivative = self.base.at(((t - self.start) / width).clamp(0, 1))
        inside = (t >= self.start) & (t <= self.stop)
        return AlphaValue(alpha, torch.where(inside, derivative / width, torch.zeros_like(derivative)))

    def inverse(self, a: Tensor) -> Tensor:
        return self.start + (self.stop - self.start) * self.base.inverse(a)


class RegionSchedule(Schedule):
    """One schedule for each region of a flat row; t broadcasts over the last axis N."""

    def __init__(self, parts: tuple[tuple[Tensor, Schedule], ...]) -> None:
        cover = torch.stack([mask.long() for mask, _ in parts]).sum(0)
        if not (cover == 1).all():
            n = int((cover != 1).nonzero()[0])
            raise ValueError(f"regions must tile the canvas: sub-token {n} lies in {int(cover[n])} of them")
        self.parts = parts

    def constant_on(self, group_of: Tensor) -> bool:
        """Whether every group of positions (group_of: (N,) ids) lies inside one region."""
        which = torch.stack([mask.long() * i for i, (mask, _) in enumerate(self.parts)]).sum(0)
        same = group_of.diff() == 0
        return not bool((which.diff()[same] != 0).any())

    def at(self, t: Tensor) -> AlphaValue:
        values = [schedule.at(t) for _, schedule in self.parts]
        return AlphaValue(self._merge([v.alpha for v in values]), self._merge([v.derivative for v in values]))

    def inverse(self, a: Tensor) -> Tensor:
        return self._merge([schedule.inverse(a) for _, schedule in self.parts])

    @property
    def powers(self) -> Tensor | None:
        """(N,) float64: p where α = 1 - t^p, None unless every region is such. Of the masked sub-tokens n is the next
        to be revealed with chance p_n / Σ_masked p, whenever that is."""
        powers = [schedule.power for _, schedule in self.parts if isinstance(schedule, Polynomial)]
        if len(powers) < len(self.parts):
            return None
        return self._merge([torch.tensor(power, dtype=torch.float64) for power in powers])

    def _merge(self, values: list[Tensor]) -> Tensor:
        merged = torch.zeros((), dtype=values[0].dtype, device=values[0].device)
        for (mask, _), value in zip(self.parts, values):
            merged = torch.where(mask.to(value.device), value, merged)
        return merged


class LearnedPowers(RegionSchedule, nn.Module):
    """`Schedule.levels` with powers that are a parameter: log_powers (G,), G digit levels of all spans in turn.

    Raises ValueError on powers that do not fit the canvas; there are none: all 1.
    """

    def __init__(self, canvas: Canvas, powers: Sequence[float] = ()) -> None:
        nn.Module.__init__(self)
        self.group = level_groups(canvas)
        start = torch.ones(int(self.group.max()) + 1)
        if powers:
            each = Schedule.levels(powers, canvas).powers  # type: ignore[attr-defined]
            start = torch.stack([each[self.group == g][0] for g in range(len(start))]).float()
        self.log_powers = nn.Parameter(start.log())

    @property
    def parts(self) -> tuple[tuple[Tensor, Schedule], ...]:  # type: ignore[override]
        """The schedule as it stands, without gradients."""
        return tuple((self.group == g, Polynomial(power)) for g, power in enumerate(self.values()))

    def values(self) -> list[float]:
        """The powers of the digit levels of all spans in turn: what `Schedule.levels` takes."""
        return [float(f"{power:.6g}") for power in self.log_powers.detach().double().exp().tolist()]

    def power(self) -> Tensor:
        """(N,) float64, with gradients."""
        return self.log_powers.double().exp()[self.group.to(self.log_powers.device)]
