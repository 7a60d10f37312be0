"""What is minimised: each example of a micro-batch draws its kind of objective and its masking process.

    loss(x) = Σ_kind Σ_masking  blend[kind] · mixture[masking] · objective_kind(x; masking)

in expectation, at the cost of one objective; the first steps of a run may have a masking of their own. Kinds: ``joint``
is a training loss and no bound, of states with wrong digits where ``objective.noise`` asks for them; ``marginal`` is
the continuous NELBO, ``finite`` the NELBO at T steps. What is printed as a bound never comes from here: validation
scores under ``objective.masking``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mmprime.engine import (
    MASKINGS,
    Canvas,
    Denoiser,
    DigitNoise,
    LearnedPowers,
    Masking,
    Rows,
    Schedule,
    joint_loss,
    learned_powers_loss,
    masked_share,
    masking_of,
    nelbo,
)
from mmprime.engine.likelihood import JointOptions

from .config import ConfigError, nearest
from .rng import stratified
from .schema import ObjectiveConfig

KINDS = ("joint", "marginal", "finite")


def masking_process(config: ObjectiveConfig, canvas: Canvas) -> Masking:
    """The process of ``objective.masking``, on the schedule of ``objective.level_powers`` where there are any, a
    parameter with ``objective.learned_steps``.

    Raises ConfigError on powers that do not fit the canvas, and with a masking in which digits of a token share times.
    """
    powers, learned = list(config.level_powers), config.learned_steps
    if not powers and not learned:
        return masking_of(config.masking)
    option = f"level_powers={powers}" if powers else f"learned_steps={learned}"
    for name in {config.masking, *config.mixture}:
        if masking_of(name).one_schedule:
            raise ConfigError(
                f"objective.{option} gives digits times of their own, masking {name!r} does not; set "
                "objective.masking=independent (and no other in objective.mixture)"
            )
    if learned == 1 or (learned and sum(span.codec.num_digits for span in canvas.spans) == 1):
        raise ConfigError(f"objective.learned_steps={learned}: one step, or one digit, has no order to learn")
    try:
        schedule = Schedule.learned(canvas, powers) if learned else Schedule.levels(powers, canvas)
        return replace(masking_of(config.masking), schedule=schedule)
    except ValueError as error:
        raise ConfigError(f"objective.level_powers: {error}") from error


def maskings_of(config: ObjectiveConfig) -> list[str]:
    """All masking processes that are trained on."""
    shares = config.mixture or {config.masking: 1.0}
    return sorted({name for name, share in shares.items() if share} | ({config.start_masking} - {""}))


class Objective:
    """The objective of a config on a canvas; see the module's head.

    independent_spans: in the joint loss, each span of an example has a time of its own. masking: scored in validation.
    Raises ConfigError on shares that are no distribution, and on options that no kind in the blend has.
    """

    def __init__(self, config: ObjectiveConfig, canvas: Canvas, independent_spans: bool = False) -> None:
        self.config, self.canvas, self.independent_spans = config, canvas, independent_spans
        kinds = _shares("blend", config.blend or {config.kind: 1.0}, KINDS)
        shares = _shares("mixture", config.mixture or {config.masking: 1.0}, tuple(MASKINGS))
        self.name = "+".join(kinds)
        self.masking = masking_process(config, canvas)
        maskings = {name: self.masking if name == self.masking.name else masking_of(name) for name in shares}
        self.pairs = [(kind, maskings[name]) for kind, name in itertools.product(kinds, shares)]
        products = [kinds[kind] * shares[name] for kind, name in itertools.product(kinds, shares)]
        self.shares = torch.tensor(products, dtype=torch.float64)
        self.joint = _joint_options(config, canvas, kinds)
        self.joint["independent_spans"] = independent_spans
        if independent_spans and (bounds := [kind for kind in kinds if kind != "joint"]):
            raise ConfigError(
                f"objective.kind={bounds[0]} gives all spans one time; set conditions.independent_times=false"
            )

    def __call__(self, denoiser: Denoiser, rows: Rows, generator: torch.Generator) -> Tensor:
        """B rows -> (B,) nats, differentiable."""
        if len(self.pairs) == 1:
            return self._nats(*self.pairs[0], denoiser, rows, generator)
        drawn = stratified(self.shares, len(rows), generator).to(rows.y.device)
        nats = torch.zeros(len(rows), device=rows.y.device)
        for number, (kind, masking) in enumerate(self.pairs):
            chosen = (drawn == number).nonzero()[:, 0]
            if len(chosen):
                values = self._nats(kind, masking, denoiser, rows[chosen], generator)
                nats = nats.index_put((chosen,), values.to(nats.dtype))
        return nats

    @property
    def learned(self) -> LearnedPowers | None:
        """The schedule, where its powers are learned."""
        return self.masking.schedule if isinstance(self.masking.schedule, LearnedPowers) else None

    @property
    def level_powers(self) -> list[float]:
        """Of the schedule as it stands."""
        return list(self.config.level_powers) if self.learned is None else self.learned.values()

    def powers_loss(self, denoiser: Denoiser, rows: Rows, generator: torch.Generator) -> Tensor:
        """(B,) nats: the bound of ``objective.learned_steps`` steps, with its gradient in the powers alone."""
        assert self.learned is not None
        return learned_powers_loss(denoiser, self.canvas, rows, self.learned, self.config.learned_steps, generator)

    def unequal_passes(self, batch: int) -> str:
        """Why some batches of this size take fewer passes than others; empty: none does."""
        if len(self.pairs) == 1 or batch * float(self.shares.min()) >= 1:
            return ""
        least = math.ceil(1 / float(self.shares.min()))
        return f"train.batch={batch} leaves some of the {len(self.pairs)} objectives without an example; take {least}"

    def _nats(self, kind: str, masking: Masking, denoiser: Denoiser, rows: Rows, generator: torch.Generator) -> Tensor:
        if kind == "joint":
            return joint_loss(denoiser, self.canvas, rows, None, generator, masking, **self.joint)
        steps = self.config.steps if kind == "finite" else None
        return nelbo(denoiser, self.canvas, rows, steps, masking, generator=generator)


def _joint_options(config: ObjectiveConfig, canvas: Canvas, kinds: Mapping[str, float]) -> JointOptions:
    """Those of ``objective`` that the joint loss alone has. Raises ConfigError where it is not minimised, or on a value
    that it cannot have."""
    standard, names = ObjectiveConfig(), ("mask_power", "mask_rate", "soft_targets", "noise")
    given = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(standard, name)}
    if given and "joint" not in kinds:
        said = ", ".join(f"objective.{name}={_short(value)}" for name, value in given.items())
        raise ConfigError(f"{said} is for objective.kind=joint")
    if config.noise_levels and not config.noise:
        raise ConfigError(f"objective.noise_levels={list(config.noise_levels)} without objective.noise; set both")
    options: JointOptions = {"mask_power": config.mask_power, "mask_rate": config.mask_rate}
    name = "mask_rate"
    try:
        masked_share(torch.zeros(1, dtype=torch.float64), config.mask_rate, config.mask_power)
        if name := "soft_targets" if config.soft_targets else "":
            options["soft_targets"] = {canvas.span(key).name: sigma for key, sigma in config.soft_targets.items()}
        if name := "noise" if config.noise else "":
            noise = options["noise"] = DigitNoise(config.noise, tuple(config.noise_levels))
            noise.check(canvas)
    except ValueError as error:
        raise ConfigError(f"objective.{name}={_short(getattr(config, name))}: {error}") from error
    return options


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def start_objective(
    config: ObjectiveConfig, canvas: Canvas, steps: int, independent_spans: bool = False
) -> tuple[int, Objective | None]:
    """What the first steps of a run of `steps` minimise, by ``objective.start_masking``, and how many they are.

    (0, None) where none are. They have no level powers. Raises ConfigError on a masking or a share that is none.
    """
    name, share = config.start_masking, config.start_share
    if name and name not in MASKINGS:
        raise ConfigError(f"objective.start_masking={name}: not one of {', '.join(MASKINGS)}{nearest(name, MASKINGS)}")
    if not 0 <= share <= 1 or bool(name) != bool(share):
        raise ConfigError(
            f"objective.start_share={share:g} with objective.start_masking={name!r}: set both, a share in (0, 1], or "
            "neither"
        )
    if not name:
        return 0, None
    alone = replace(config, masking=name, mixture={}, level_powers=[], learned_steps=0)
    return round(share * steps), Objective(alone, canvas, independent_spans)


def _shares(key: str, shares: Mapping[str, float], known: tuple[str, ...]) -> dict[str, float]:
    """The positive shares. Raises ConfigError on unknown names, negative shares, or a sum that is not 1."""
    for name, share in shares.items():
        if name not in known:
            raise ConfigError(f"objective.{key}.{name}: not one of {', '.join(known)}{nearest(name, known)}")
        if share < 0:
            raise ConfigError(f"objective.{key}.{name}={share}: a share must be >= 0")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"objective.{key}: the shares {dict(shares)} add up to {sum(shares.values()):g}, not 1")
    return {name: float(share) for name, share in shares.items() if share}
