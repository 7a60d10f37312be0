"""Classifier-free guidance as a denoiser around a denoiser.

    ℓ = ℓ_u + (1 + w·r) (ℓ_c - ℓ_u),      r = 1 (constant) or the share of free sub-tokens already visible (linear ramp)

The unconditional branch hides the condition's sub-tokens and takes the null class. Both branches run in one batched
pass; samplers never know. High guidance early hurts, hence the ramp. Sources: Ho & Salimans, arXiv 2207.12598;
Nisonoff et al., arXiv 2406.01572 (discrete); Chang et al. (Muse), arXiv 2301.00704 (ramp).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .codec import MASK_ID
from .denoiser import Condition, Denoiser

_DROP, _FREE = "guidance_drop", "guidance_free"
RAMPS = ("constant", "linear")


class Guided:
    """A guided denoiser. scale w = 0 is no guidance. Raises ValueError on an unknown ramp or a scale below -1."""

    passes_per_call = 2

    def __init__(self, denoiser: Denoiser, scale: float, ramp: str = "linear") -> None:
        if ramp not in RAMPS:
            raise ValueError(f"unknown guidance ramp {ramp!r}; there are {', '.join(RAMPS)}")
        if not scale >= -1:
            raise ValueError(f"guidance must be a number >= -1, got {scale}")
        self.denoiser, self.scale, self.ramp = denoiser, scale, ramp

    def condition(self, canvas: Canvas, rank: Tensor, cond: Condition | None) -> Condition:
        """Extend cond by what the unconditional branch hides: every span that is wholly given, rank 0 of (B, N).

        Raises ValueError when there is neither a given span nor a condition to drop.
        """
        given = rank == 0
        drop = torch.zeros_like(given)
        for span in canvas.spans:
            inside = canvas.mask(span.name).to(given.device)
            drop |= inside & (given | ~inside).all(-1, keepdim=True)
        if not drop.any() and not cond:
            raise ValueError("nothing to guide by: no span is wholly given and there is no class condition")
        return {**(cond or {}), _DROP: drop, _FREE: rank > 0}

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        assert cond is not None, "call Guided.condition first"
        drop, free = cond[_DROP], cond[_FREE]
        plain = {name: value for name, value in cond.items() if name not in (_DROP, _FREE)}
        null = self.denoiser.null_condition(plain) if plain else {}  # type: ignore[attr-defined]
        both = {name: torch.cat([value, null[name]]) for name, value in plain.items()}
        states = torch.cat([y, torch.where(drop, MASK_ID, y)])
        with_condition, without = self.denoiser(states, canvas, both or None).chunk(2)
        visible = (free & (y >= 0)).sum(-1) / free.sum(-1).clamp(min=1)
        weight = torch.ones_like(visible) if self.ramp == "constant" else visible
        weight = weight.to(with_condition.dtype)[:, None, None].expand(*with_condition.shape[:2], 1)
        return torch.cat([with_condition, without, weight], -1)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        width = (hidden.shape[-1] - 1) // 2
        with_condition = self.denoiser.logits(hidden[:, :width], span)
        without = self.denoiser.logits(hidden[:, width:-1], span)
        return without + (1 + self.scale * hidden[:, -1:]) * (with_condition - without)
