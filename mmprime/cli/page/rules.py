"""Rules for a part of a picture that is brushed: which codes are drawn again, and when.

paint anew                 only what is brushed is drawn again; all else stays
freeze                     what is brushed stays; all else is drawn again
coarse until the middle    all is drawn again: of what is brushed the coarsest digits in the first half of the run,
                           the finer ones in the second
first, last                all is drawn again: what is brushed in the first, the second half, the others in the other
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmprime.engine import Canvas, Region
from mmprime.engine.samplers import Regions
from mmprime.generation.defaults import STEPS
from mmprime.generation.images import code_mask
from mmprime.generation.sampling import SamplingConfig

ANEW, FREEZE, COARSE, FIRST, LAST = RULES = ("paint anew", "freeze", "coarse until the middle", "first", "last")
_EARLY, _LATE = (0.0, 0.5), (0.5, 1.0)


def ruled(rule: str, brushed: Tensor, canvas: Canvas, config: SamplingConfig) -> tuple[Tensor, SamplingConfig]:
    """brushed (h, w) bool -> the codes (h, w) bool to be drawn again, and how. A rule about time goes by regions in
    place of the sampler. Raises ValueError on an unknown rule, and on one that this brush or model leaves no room for.
    """
    if rule not in RULES:
        raise ValueError(f"no rule is called {str(rule)[:40]!r}; there are {', '.join(RULES)}")
    if rule == ANEW:
        return brushed, config
    if rule != COARSE and bool(brushed.all()):
        raise ValueError(f"all of the picture is brushed, so {rule!r} leaves no rest; brush less")
    if rule == FREEZE:
        return ~brushed, config
    steps = config.steps or STEPS
    if steps < 2:
        raise ValueError(f"the rule {rule!r} cuts the run into two halves; give at least 2 steps")
    parts = _parts(rule, code_mask(canvas, brushed), canvas)
    return torch.ones_like(brushed), replace(config, sampler=Regions(steps, parts), steps=steps)


def _parts(rule: str, inside: Tensor, canvas: Canvas) -> tuple[Region, ...]:
    if rule != COARSE:
        early, late = (_EARLY, _LATE) if rule == FIRST else (_LATE, _EARLY)
        return Region("brushed", inside, early), Region("the others", canvas.mask("image") & ~inside, late)
    levels = canvas.span("image").codec.num_digits
    if levels < 2:
        raise ValueError(f"a code of this model is one digit, so {rule!r} says nothing about it; choose another rule")
    coarse = canvas.mask("image", digits=(0,))
    return Region("coarse", inside & coarse, _EARLY), Region("fine", inside & ~coarse, _LATE)
