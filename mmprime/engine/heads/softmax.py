"""Distributions over one token's digit grid.

For a token with joint logits g over the grid [b_1, ..., b_S] and a partly visible row y of digits,

    p(cell | y) = softmax of g over the cells that agree with y                 `log_posterior`
    log p(y_after | y) = logsumexp of log p(cell | y) over the cells that agree with y_after too     `log_mass`

Agreement with y is a sum of one small vector per axis (0 or -inf), so no (tokens, codes, digits) tensor is built.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rng import categorical

_NEVER = -800.0  # exp of it is 0 in float64


def constrain(grid: Tensor, y: Tensor) -> Tensor:
    """grid (M, b_1, ..., b_S) with -inf in every cell that contradicts the visible digits y (M, S)."""
    for axis, radix in enumerate(grid.shape[1:]):
        digit = y[:, axis]
        if not bool((digit >= 0).any()):  # nothing on this axis is visible
            continue
        value = torch.arange(radix, device=grid.device)
        clash = (digit[:, None] >= 0) & (digit[:, None] != value)
        shape = [len(grid)] + [1] * (grid.ndim - 1)
        shape[axis + 1] = radix
        bias = torch.zeros(clash.shape, dtype=grid.dtype, device=grid.device).masked_fill(clash, -math.inf)
        grid = grid + bias.view(shape)
    return grid


def log_posterior(grid: Tensor, y: Tensor) -> Tensor:
    """log p(cell | visible digits y): (M, b_1, ..., b_S), (M, S) -> (M, b_1, ..., b_S).

    -inf everywhere where no cell of finite logits agrees with y: what is visible is impossible, and all that follows.
    """
    cells = constrain(grid, y).flatten(1)
    posterior = torch.log_softmax(cells, -1)
    if bool(posterior[:, 0].isnan().any()):
        never = cells.amax(-1, keepdim=True).isneginf()
        posterior = torch.log_softmax(cells.masked_fill(never, 0.0), -1).masked_fill(never, -math.inf)
    return posterior.view(grid.shape)


def log_mass(grid: Tensor, y: Tensor) -> Tensor:
    """log of the mass of the cells that agree with y: (M, b_1, ..., b_S), (M, S) -> (M,)."""
    if bool((y >= 0).all()):  # complete rows name one cell each
        cell = torch.zeros_like(y[:, 0])
        for axis, radix in enumerate(grid.shape[1:]):
            cell = cell * radix + y[:, axis]
        return grid.flatten(1).gather(1, cell[:, None])[:, 0]
    cells = constrain(grid, y).flatten(1)
    mass = torch.logsumexp(cells, -1)
    never = mass.isneginf()
    if bool(never.any()):  # its gradient would be NaN
        mass = torch.logsumexp(cells.masked_fill(never[:, None], 0.0), -1).masked_fill(never, -math.inf)
    return mass


def sample_cells(
    grid: Tensor, y: Tensor, u: Tensor, temperature: float | Tensor = 1.0, top_p: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a whole cell for each token from p(cell | y): exact in float64.

    grid (M, b_1, ..., b_S), y (M, S) visible digits, u (M,) uniforms in [0, 1).
    Returns cell (M,) flat grid index, confidence (M,) its probability, and entropy (M,) in nats of what it is from.
    temperature (a number or (M,)) 0 takes the most probable cell. top_p keeps the smallest set of cells of at least
    that probability.
    Raises ValueError when no code agrees with the visible digits of a token, and on logits that are NaN or +inf.
    """
    logits = constrain(grid, y).flatten(1)
    top = logits.amax(-1, keepdim=True)
    if not bool(top.isfinite().all()):
        nothing = torch.isneginf(top[:, 0])
        if not bool(nothing.any()):
            raise ValueError(f"the logits of a token have the maximum {float(top[~top.isfinite()][0])}")
        raise ValueError(f"no code agrees with the visible digits {y[nothing][0].tolist()}")
    score = logits.double() - top.double()
    heat = torch.as_tensor(temperature, dtype=torch.float64, device=score.device).expand(len(score))[:, None]
    if bool((heat != 1).any()):
        score /= torch.where(heat > 0, heat, 1.0)
    weights = score.clamp_(min=_NEVER).exp()
    if bool((heat == 0).any()):
        surest = torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1.0)
        weights = torch.where(heat == 0, surest, weights)
    if top_p < 1:
        weights = _nucleus(weights, top_p)
    cell = categorical(weights, u.to(weights.device))
    total = weights.sum(-1)
    entropy = total.log() - torch.linalg.vecdot(weights, score) / total
    return cell, weights.gather(-1, cell[:, None])[:, 0] / total, entropy


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of cells whose share reaches top_p."""
    ordered, index = weights.sort(dim=-1, descending=True, stable=True)
    before = (ordered.cumsum(-1) - ordered) / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(weights).scatter_(-1, index, ordered.masked_fill(before >= top_p, 0.0))


def unravel(cell: Tensor, radices: tuple[int, ...]) -> Tensor:
    """Flat grid index (M,) -> digits (M, S)."""
    digits = []
    for radix in reversed(radices):
        digits.append(cell % radix)
        cell = cell // radix
    return torch.stack(digits[::-1], -1)


def unit_probs(posterior: Tensor, first: Tensor, cell: Tensor, digits: Tensor, unit: str) -> tuple[Tensor, Tensor]:
    """log p over grids (M, b_1, ..., b_S) -> probabilities (M, K) float64 of each token's unit, and its value (M,).

    Unit "token": over whole cells. Unit "digit": of the digit `first` (M,), padded with zeros to the largest base.
    """
    joint = posterior.exp()
    if unit == "token":
        return joint.flatten(1).double(), cell
    radices = posterior.shape[1:]
    probs = joint.new_zeros(len(joint), max(radices), dtype=torch.float64)
    for axis, radix in enumerate(radices):
        rows = first == axis
        if bool(rows.any()):
            others = [dim + 1 for dim in range(len(radices)) if dim != axis]
            part = joint[rows]
            probs[rows, :radix] = part.sum(others, dtype=torch.float64) if others else part.double()
    return probs, digits.gather(1, first[:, None])[:, 0]
