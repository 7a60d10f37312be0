"""Independent masking: each sub-token is masked on its own (MDM-Prime).

    key_n = u_n;   next: each masked digit alone, at rate w(t);   one step: any set of digits

With α_n = 1 - t^{p_n} of different powers p, sub-tokens race to be masked: of the m masked ones n is the next to be
revealed with chance p_n / Σ_masked p, which weighs n · p_n / Σ_masked p by count (`Schedule.levels`).

Source: Chao et al., arXiv 2505.18495.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..canvas import Canvas
from ..schedule import RegionSchedule
from .base import Masking, Reveals

SUMMED_DIGITS = 3  # of digits that come independently: 2^S - 1 sets of S digits


@dataclass(frozen=True)
class IndependentMasking(Masking):
    """Each sub-token is masked on its own."""

    name: ClassVar[str] = "independent"
    seed: ClassVar[int] = 0
    sampler: ClassVar[str] = "first_hitting"
    one_schedule: ClassVar[bool] = False
    any_subset: ClassVar[bool] = True

    def _keys(self, canvas: Canvas, u: Tensor, free: Tensor) -> Tensor:
        return u

    @property
    def counts(self) -> bool:
        regions = isinstance(self.schedule, RegionSchedule)
        return not self.by_time and (not regions or self._powers is not None)

    @property
    def _powers(self) -> Tensor | None:
        return self.schedule.powers if isinstance(self.schedule, RegionSchedule) else None

    def rate_by_count(self, canvas: Canvas, masked: Tensor, weight: Tensor) -> Tensor:
        if self._powers is None:
            return weight
        chance = torch.where(masked, self._powers.to(weight), 0.0)
        total = chance.sum(-1, keepdim=True)
        return weight * masked.sum(-1, keepdim=True) * chance / torch.where(total > 0, total, 1.0)

    def next_reveals(self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, rate: Tensor) -> Reveals:
        levels = range(canvas.num_levels)
        at_level = [masked & (canvas.digit_of.to(y0.device) == level) for level in levels]
        after = torch.stack([torch.where(chosen, y0, y_t) for chosen in at_level])
        return Reveals(after, torch.stack([canvas.at_level(rate, level) for level in levels]))

    def step_reveals(
        self, canvas: Canvas, y0: Tensor, y_t: Tensor, masked: Tensor, chance: Tensor, apart: bool = False
    ) -> Reveals | None:
        """Every set of levels of a token: the product of the chances that they come and the others do not."""
        if apart:
            return IndependentMasking.next_reveals(self, canvas, y0, y_t, masked, torch.where(masked, chance, 0.0))
        if canvas.num_levels > SUMMED_DIGITS:
            return None
        masked = masked & (chance > 0)
        digit = canvas.digit_of.to(y0.device)
        comes = [canvas.at_level(torch.where(masked, chance, 0.0), level) for level in range(canvas.num_levels)]
        after, weight = [], []
        for taken in itertools.product((False, True), repeat=len(comes)):
            if any(taken):
                after.append(torch.where(masked & torch.tensor(taken, device=y0.device)[digit], y0, y_t))
                weight.append(torch.stack([c if take else 1 - c for c, take in zip(comes, taken)]).prod(0))
        return Reveals(torch.stack(after), torch.stack(weight))
