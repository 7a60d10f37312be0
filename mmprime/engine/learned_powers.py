"""The loss by which a schedule learns its pace by modality and digit level: the bound of the T steps one samples with.

    α_g(t) = 1 - t^{p_g},   one power p_g = exp(θ_g) for each digit level g of each span
    L_T(p) = T · E_k E_{y_t ~ q_p}[ Σ_reveals c_p · -log p(reveal | y_t) ],   c_p = 1 - (t/s)^p from time s to time t

Step k goes from s = 1 - (k-1)/T to t = 1 - k/T. The gradient through the chances c_p is exact; through the states it is
the score function with leave-one-out: two states of one example at one step, each the other's baseline,

    ∇L = 1/2 Σ_m (l_m - l_other) ∇ log q_p(y_m) + ∇ l_m.

The plan never looks at the data, so that L_T is a bound for any powers. Source: Shi et al. (GenMD4), arXiv 2406.04329,
section 6 and appendix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import Canvas
from .codec import MASK_ID
from .denoiser import Denoiser, digits_apart, reveal_nats
from .masking import IndependentMasking, Reveals
from .rng import strata
from .rows import Rows
from .schedule import LearnedPowers


def learned_powers_loss(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor | Rows,
    schedule: LearnedPowers,
    steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B,) nats: an estimate of the bound of T = `steps` steps, whose gradient is that of the bound in the powers.

    The denoiser gets no gradient. Raises ValueError on steps < 2 (one step reveals all, whatever the powers) and as
    `nelbo`.
    """
    if steps < 2:
        raise ValueError(f"powers are learned on a bound of at least 2 steps, got {steps}")
    rows = Rows.of(canvas, y0)
    step = 1 + (strata(len(rows), 1, generator, rows.y.device) * steps).long()
    both = [_step_nats(denoiser, canvas, rows, schedule.power(), step, steps, generator) for _ in range(2)]
    nats, score = (torch.stack(values) for values in zip(*both))
    surrogate = ((nats - nats.flip(0)).detach() * score + nats).mean(0)
    return nats.mean(0).detach() + surrogate - surrogate.detach()


def _step_nats(
    denoiser: Denoiser,
    canvas: Canvas,
    rows: Rows,
    power: Tensor,
    step: Tensor,
    steps: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """T · nats (B,) of one random state before step k (B, 1), and log q (B,) of what was drawn for it."""
    u = torch.rand(2, *rows.y.shape, generator=generator, dtype=torch.float64).to(rows.y.device)
    begin, end = 1 - (step - 1).double() / steps, 1 - step.double() / steps
    masked_chance, log_masked, log_visible = _powered(begin, power)
    _, log_stays, log_comes = _powered(end / begin, power)
    masked = rows.free & (u[0] < masked_chance.detach())
    score = torch.where(masked, log_masked, torch.where(rows.free, log_visible, 0.0)).sum(-1)
    y_t = torch.where(masked | rows.absent, MASK_ID, rows.y)
    comes = torch.where(masked, log_comes.exp(), 0.0)
    apart = digits_apart(denoiser, canvas)
    reveals = IndependentMasking().step_reveals(canvas, rows.y, y_t, masked, comes, apart)
    if reveals is None:
        revealed = masked & (u[1] < comes.detach())
        score = score + torch.where(masked, torch.where(revealed, log_comes, log_stays), 0.0).sum(-1)
        reveals = Reveals(torch.where(revealed, rows.y, y_t)[None], score.new_ones(1, len(rows), canvas.num_tokens))
    with torch.no_grad():
        nats = reveal_nats(denoiser, canvas, y_t, reveals.after, rows.cond).double()
    counted = torch.where(reveals.weight > 0, nats, 0.0)
    return steps * (counted * reveals.weight).sum((0, 2)), score


def _powered(ratio: Tensor, power: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """r (B, 1) in [0, 1] -> r^p (B, N), its logarithm and that of 1 - r^p; a logarithm of 0 is 0, without gradient:
    it belongs to what does not occur."""
    inside = (ratio > 0) & (ratio < 1)
    log_r = torch.where(inside, ratio, 0.5).log() * power
    log_rest = torch.where(inside, torch.log(-torch.expm1(log_r)), 0.0)
    return torch.where(inside, log_r.exp(), ratio), torch.where(inside, log_r, 0.0), log_rest
