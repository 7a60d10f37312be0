"""All ways to reveal, by name: each builds a plan or a policy for a batch.

A builder's own keyword options are its signature, so that a command line and Python take the same ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import samplers as policies
from ..canvas import Canvas
from ..masking.order import as_mask
from ..plan import Plan
from ..policy import Policy
from ..rng import Randomness
from ..schedule import Schedule
from .regions import Region, regional_plan


@dataclass(frozen=True)
class Request:
    """What a plan is made for. steps: the most forward steps; given, absent (B, N) or (N,) bool or None."""

    canvas: Canvas
    batch: int
    steps: int
    generator: Randomness = None
    given: Tensor | None = None
    absent: Tensor | None = None

    @property
    def common(self) -> dict[str, Any]:
        """Arguments of every constructor of plans."""
        return {"generator": self.generator, "given": self.given, "absent": self.absent}


_ORDERS = ("halton", "nested", "first_hitting", "token_synchronous", "raster", "coarse_first")
_RULES = {"confidence": policies.Confidence, "margin": policies.Margin, "entropy": policies.Entropy}
Builder = Callable[..., Plan | Policy]
SAMPLERS: dict[str, Builder] = {}


def _register(build: Builder) -> Builder:
    SAMPLERS[build.__name__.lstrip("_")] = build
    return build


def options_of(name: str) -> dict[str, Any]:
    """The options of a sampler and their defaults. Raises ValueError naming the samplers there are."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def keeps_tokens_whole(name: str, options: Mapping[str, Any] | None = None) -> bool:
    """Whether a sampler never shows a part of a token's digits."""
    options = options or {}
    whole = ("token_synchronous", "remdm", "p2")
    return name in whole or options.get("unit") == "token" or (name == "mixture" and options.get("plan") in whole)


def describe(name: str) -> str:
    """One line about a sampler."""
    options = ", ".join(f"{key}={value}" for key, value in options_of(name).items())
    return f"{(SAMPLERS[name].__doc__ or '').strip()}{f'  [{options}]' if options else ''}"


def listing() -> str:
    """A line for each sampler: its name and what `describe` says."""
    return "\n".join(f"{name:18} {describe(name)}" for name in SAMPLERS)


def build(name: str, request: Request, options: Mapping[str, Any] | None = None) -> Plan | Policy:
    """The plan or policy of that name. Option values may be words of a command line ("0.5"); they take the type of the
    default. Raises ValueError on an unknown sampler or option, or a value that does not fit."""
    defaults, values = options_of(name), {}
    for key, value in (options or {}).items():
        if key not in defaults:
            known = f"it has {', '.join(defaults)}" if defaults else "it has none"
            raise ValueError(f"sampler {name!r} has no option {key!r}; {known}")
        values[key] = _typed(name, key, value, defaults[key])
    return SAMPLERS[name](request, **values)


def _typed(name: str, key: str, value: Any, default: Any) -> Any:
    if isinstance(value, type(default)):
        return value
    if isinstance(default, tuple):
        raise ValueError(f"{name}: {key} is no word of a command line, got {value!r}; --regions FILE gives them")
    try:
        return type(default)(value)
    except ValueError as error:
        raise ValueError(f"{name}: {key}={value!r} is no {type(default).__name__}") from error


def _schedule(name: str) -> Schedule:
    """linear, cosine, or polynomial:P."""
    word, _, power = name.partition(":")
    if word == "polynomial" and power:
        return Schedule.polynomial(float(power))
    if name not in ("linear", "cosine"):
        raise ValueError(f"unknown schedule {name!r}; there are linear, cosine, polynomial:P")
    return Schedule.linear() if name == "linear" else Schedule.cosine()


def _timing(name: str, canvas: Canvas) -> Schedule:
    """A schedule as above, or places:P,P,...: a power for each digit place."""
    word, _, powers = name.partition(":")
    if word != "places":
        return _schedule(name)
    try:
        return Schedule.places([float(power) for power in powers.split(",")], canvas)
    except ValueError as error:
        raise ValueError(f"schedule {name!r}: {error}") from error


# ---------------------------------------------------------------- plans: the order does not look at the data


@_register
def ancestral(request: Request, *, schedule: str = "linear", law: str = "independent") -> Plan:
    """reveal times cut by a grid of times; steps may be idle"""
    timing = _timing(schedule, request.canvas)
    return Plan.ancestral(request.canvas, timing, request.steps, request.batch, law=law, **request.common)


@_register
def first_hitting(request: Request, *, pace: str = "linear", schedule: str = "linear") -> Plan:
    """digits in random order, a fixed number a step; no idle step"""
    timing = _timing(schedule, request.canvas)
    return Plan.first_hitting(
        request.canvas, request.batch, steps=request.steps, pace=_schedule(pace), schedule=timing, **request.common
    )


@_register
def nested(request: Request, *, pace: str = "linear") -> Plan:
    """random order, the coarse digit of a token before its fine one"""
    return Plan.nested(request.canvas, request.batch, steps=request.steps, pace=_schedule(pace), **request.common)


@_register
def token_synchronous(request: Request, *, pace: str = "linear") -> Plan:
    """whole tokens in random order: plain masked diffusion"""
    return Plan.token_synchronous(
        request.canvas, request.batch, steps=request.steps, pace=_schedule(pace), **request.common
    )


@_register
def coarse_first(request: Request, *, pace: str = "linear") -> Plan:
    """the coarse digits of all tokens first, then the next ones"""
    return Plan.ordered(
        request.canvas, request.batch, by="digit", steps=request.steps, pace=_schedule(pace), **request.common
    )


@_register
def raster(request: Request, *, pace: str = "linear") -> Plan:
    """token after token"""
    return Plan.ordered(
        request.canvas, request.batch, by="raster", steps=request.steps, pace=_schedule(pace), **request.common
    )


@_register
def halton(request: Request, *, pace: str = "linear") -> Plan:
    """tokens spread evenly over the picture (low-discrepancy points)"""
    return Plan.halton(request.canvas, request.batch, steps=request.steps, pace=_schedule(pace), **request.common)


@_register
def regions(request: Request, *, parts: tuple[Region, ...] = (), rest: str = "nested") -> Plan:
    """a window, an order and a budget of steps for each region; what no region names follows `rest`"""
    given, absent = (
        as_mask(mask, request.canvas, request.batch, torch.device("cpu")) for mask in (request.given, request.absent)
    )

    def plan_of(region: Region, steps: int, away: Tensor) -> Plan:
        plan = build(region.order, replace(request, steps=steps, absent=away))
        if not isinstance(plan, Plan):
            raise ValueError(
                f"region {region.name!r}: {region.order!r} looks at the data; an order is one of the plans"
            )
        return plan

    return regional_plan(request.canvas, parts, request.steps, given, absent, rest, plan_of)


# ---------------------------------------------------------------- policies: the order follows what the model says


@_register
def confidence(request: Request, *, noise: float = 4.5, pace: str = "cosine", unit: str = "digit") -> Policy:
    """MaskGIT: the surest draws first, with fading noise"""
    return policies.Confidence(request.steps, noise, _schedule(pace), unit)


@_register
def margin(request: Request, *, pace: str = "linear", unit: str = "digit") -> Policy:
    """the largest gap between the two likeliest values first"""
    return policies.Margin(request.steps, _schedule(pace), unit)


@_register
def entropy(request: Request, *, pace: str = "linear", unit: str = "digit") -> Policy:
    """the lowest entropy first"""
    return policies.Entropy(request.steps, _schedule(pace), unit)


@_register
def moment(request: Request, *, power: float = 1.25, pace: str = "linear", unit: str = "digit") -> Policy:
    """places by the moment of their law, values from the sharpened law"""
    return policies.Moment(request.steps, power, _schedule(pace), unit)


@_register
def entropy_budget(request: Request, *, unit: str = "digit") -> Policy:
    """equal nats at every step, so that the steps go where the uncertainty is"""
    return policies.EntropyBudget(request.steps, unit)


@_register
def entropy_bounded(request: Request, *, gamma: float = 0.1, unit: str = "digit") -> Policy:
    """as many as their joint entropy allows; the number of steps follows"""
    return policies.EntropyBounded(gamma, unit)


@_register
def klass(
    request: Request,
    *,
    confidence: float = 0.9,
    divergence: float = 0.01,
    history: int = 2,
    fallback: int = 1,
    unit: str = "digit",
) -> Policy:
    """what is sure and has stopped changing; the number of steps follows"""
    return policies.Klass(confidence, divergence, history, fallback, unit)


@_register
def threshold(request: Request, *, threshold: float = 0.9, unit: str = "digit") -> Policy:
    """all that is surer than a threshold; the number of steps follows"""
    return policies.Threshold(threshold, unit=unit)


@_register
def factor(request: Request, *, factor: float = 1.0, unit: str = "digit") -> Policy:
    """the largest set whose least sure member still satisfies a bound; the number of steps follows"""
    return policies.Threshold(factor=factor, unit=unit)


@_register
def blocks(request: Request, *, size: int = 16, gamma: float = 0.1, unit: str = "digit") -> Policy:
    """window after window, inside each as the entropy bound allows; the number of steps follows"""
    return policies.Blocks(policies.EntropyBounded(gamma, unit), size)


@_register
def mixture(request: Request, *, share: float = 0.5, plan: str = "halton", rule: str = "confidence") -> Policy:
    """a share of every step in the order of a plan, the rest as a rule chooses"""
    if plan not in _ORDERS:
        raise ValueError(f"mixture: unknown plan {plan!r}; there are {', '.join(_ORDERS)}")
    if rule not in _RULES:
        raise ValueError(f"mixture: unknown rule {rule!r}; there are {', '.join(_RULES)}")
    order = build(plan, replace(request, steps=request.canvas.num_subtokens))  # one unit a step
    assert isinstance(order, Plan)
    unit = "token" if plan == "token_synchronous" else "digit"
    return policies.Mixture(order, _RULES[rule](request.steps, pace=Schedule.linear(), unit=unit), share)


@_register
def remdm(request: Request, *, kind: str = "cap", eta: float = 0.1, hold: float = 0.1) -> Policy:
    """whole tokens, some of them hidden again on the way"""
    return policies.ReMDM(request.steps, kind, eta, hold)


@_register
def p2(request: Request, *, eta: float = 1.0) -> Policy:
    """path planning: whole tokens, the least credible hidden again at every step"""
    return policies.PathPlanning(request.steps, eta)


@_register
def corrector(
    request: Request,
    *,
    strength: float = 1.0,
    power: float = 0.5,
    start: float = 0.0,
    stop: float = 1.0,
    schedule: str = "linear",
) -> Policy:
    """single digits, some of them hidden again on the way at the rate that keeps the share of visible ones"""
    return policies.Corrector(request.steps, strength, power, start, stop, _schedule(schedule))
