"""What is minimised: each example of a micro-batch draws its kind of objective and its law of plans.

    loss(x) = Σ_kind Σ_law  blend[kind] · mixture[law] · objective_kind(x; law)

in expectation, at the cost of one objective; the first steps of a run may have a law of their own. Kinds: ``joint`` is
a training loss and no bound; ``marginal`` is the continuous NELBO, ``finite`` the NELBO at T steps. What is printed as
a bound never comes from here: validation judges ``objective.law``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mmprime.engine import LAWS, Canvas, Condition, Denoiser, Schedule, joint_loss, nelbo

from .config import ConfigError, nearest
from .rng import stratified
from .schema import ObjectiveConfig

KINDS = ("joint", "marginal", "finite")


def place_schedule(config: ObjectiveConfig, canvas: Canvas) -> Schedule | None:
    """The schedule of ``objective.place_powers``, None where there are none.

    Raises ConfigError on powers that do not fit the canvas, and under a law in which digits of a token share times.
    """
    if not config.place_powers:
        return None
    for law in {config.law, *config.mixture}:
        if law != "independent":
            raise ConfigError(
                f"objective.place_powers={list(config.place_powers)} gives digits times of their own, law {law!r} does "
                "not; set objective.law=independent (and no other in objective.mixture)"
            )
    try:
        return Schedule.places(config.place_powers, canvas)
    except ValueError as error:
        raise ConfigError(f"objective.place_powers: {error}") from error


def laws_of(config: ObjectiveConfig) -> list[str]:
    """All laws of plans that are trained on."""
    shares = config.mixture or {config.law: 1.0}
    return sorted({law for law, share in shares.items() if share} | ({config.start_law} - {""}))


class Objective:
    """The objective of a config; see the module's head.

    independent_spans: in the joint loss, each span of an example has a time of its own. schedule: of `place_schedule`.
    Raises ConfigError on shares that are no distribution, and on options that no kind in the blend has.
    """

    def __init__(
        self, config: ObjectiveConfig, independent_spans: bool = False, schedule: Schedule | None = None
    ) -> None:
        self.config, self.independent_spans, self.schedule = config, independent_spans, schedule
        kinds = _shares("blend", config.blend or {config.kind: 1.0}, KINDS)
        laws = _shares("mixture", config.mixture or {config.law: 1.0}, LAWS)
        self.name = "+".join(kinds)
        self.pairs = list(itertools.product(kinds, laws))
        self.shares = torch.tensor([kinds[kind] * laws[law] for kind, law in self.pairs], dtype=torch.float64)
        if "joint" not in kinds and config.mask_power != 1:
            raise ConfigError(f"objective.mask_power={config.mask_power} is for objective.kind=joint")
        if independent_spans and (bounds := [kind for kind in kinds if kind != "joint"]):
            raise ConfigError(
                f"objective.kind={bounds[0]} gives all spans one time; set conditions.independent_times=false"
            )

    def __call__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        y0: Tensor,
        generator: torch.Generator,
        given: Tensor | None = None,
        absent: Tensor | None = None,
        cond: Condition | None = None,
    ) -> Tensor:
        """y0 (B, N), given and absent (B, N) -> (B,) nats, differentiable."""
        if len(self.pairs) == 1:
            return self._nats(*self.pairs[0], denoiser, canvas, y0, generator, given, absent, cond)
        drawn = stratified(self.shares, len(y0), generator).to(y0.device)
        nats = torch.zeros(len(y0), device=y0.device)
        for number, (kind, law) in enumerate(self.pairs):
            rows = (drawn == number).nonzero()[:, 0]
            if len(rows):
                values = self._nats(
                    kind, law, denoiser, canvas, y0[rows], generator,
                    None if given is None else given[rows],
                    None if absent is None else absent[rows],
                    None if cond is None else {name: value[rows] for name, value in cond.items()},
                )  # fmt: skip
                nats = nats.index_put((rows,), values.to(nats.dtype))
        return nats

    def _nats(
        self,
        kind: str,
        law: str,
        denoiser: Denoiser,
        canvas: Canvas,
        y0: Tensor,
        generator: torch.Generator,
        given: Tensor | None,
        absent: Tensor | None,
        cond: Condition | None,
    ) -> Tensor:
        if kind == "joint":
            return joint_loss(
                denoiser, canvas, y0, given, generator, law=law, cond=cond, absent=absent,
                independent_spans=self.independent_spans, mask_power=self.config.mask_power, schedule=self.schedule,
            )  # fmt: skip
        steps = self.config.steps if kind == "finite" else None
        return nelbo(
            denoiser, canvas, y0, steps, law, given, generator=generator, cond=cond, absent=absent,
            schedule=self.schedule, by_count=self.schedule is not None and steps is None,
        )  # fmt: skip


def start_objective(
    config: ObjectiveConfig, steps: int, independent_spans: bool = False
) -> tuple[int, Objective | None]:
    """What the first steps of a run of `steps` minimise, by ``objective.start_law``, and how many they are.

    (0, None) where none are. They have no place powers. Raises ConfigError on a law or a share that is none.
    """
    law, share = config.start_law, config.start_share
    if law and law not in LAWS:
        raise ConfigError(f"objective.start_law={law}: not one of {', '.join(LAWS)}{nearest(law, LAWS)}")
    if not 0 <= share <= 1 or bool(law) != bool(share):
        raise ConfigError(
            f"objective.start_share={share:g} with objective.start_law={law!r}: set both, a share in (0, 1], or neither"
        )
    if not law:
        return 0, None
    return round(share * steps), Objective(replace(config, law=law, mixture={}), independent_spans)


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
