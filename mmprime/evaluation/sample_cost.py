"""How many steps of a sampler reveal nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from mmprime.engine.samplers import Ancestral
from mmprime.engine.samplers.base import CountPlanned
from mmprime.generation.sampling import SamplingConfig


def steps_unused(config: SamplingConfig, rank: Tensor) -> Tensor:
    """(B,) of the steps of ancestral sampling, those at which an example revealed nothing, also after its last reveal;
    0 of other samplers."""
    if not isinstance(config.sampler, Ancestral) or config.steps is None:
        return torch.zeros(len(rank), dtype=torch.int64)
    used = torch.zeros(len(rank), config.steps + 1, dtype=torch.bool)
    return config.steps - used.scatter(1, rank.cpu().clamp(min=0), True)[:, 1:].sum(-1)


def idle_share(config: SamplingConfig, idle_steps: Tensor) -> float | None:
    """Mean share of the sampler's steps at which examples revealed nothing, of `steps_unused` (B,).

    Ancestral plans have such steps; plans that cut an order into steps by count have none; of samplers that decide
    while sampling it is not known here (None).
    """
    if isinstance(config.sampler, CountPlanned):
        return 0.0
    if not isinstance(config.sampler, Ancestral) or config.steps is None:
        return None
    return float(idle_steps.double().mean()) / config.steps
