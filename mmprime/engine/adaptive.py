"""Running a policy: look at all hidden tokens, let the policy choose, show what it chose.

An example is forwarded until nothing of it is hidden, so there is no idle step; `rank` records when each sub-token was
shown, and a run of a policy leaves the same record as a run of a plan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .denoiser import Condition, Denoiser, chunks, token_grid
from .grid import draw, log_posterior, unravel
from .policy import Look, Policy
from .rng import uniforms


class PolicyRun:
    """The state of one run: y (B, N), rank (B, N) as executed (0 given, -1 absent), nfe (B,) forward passes."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        policy: Policy,
        y: Tensor,
        free: Tensor,
        streams: list[torch.Generator],
        temperature: float = 1.0,
        top_p: float = 1.0,
        cond: Condition | None = None,
    ) -> None:
        self.denoiser, self.canvas, self.policy, self.cond = denoiser, canvas, policy, cond
        self.y, self.free, self.streams = y, free, streams
        self.temperature, self.top_p = temperature / policy.sharpness, top_p
        self.rank = torch.where(free, torch.iinfo(torch.int64).max, torch.where(y >= 0, 0, -1))
        self.nfe = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        self.confidence = torch.full(y.shape, torch.nan, dtype=torch.float64, device=y.device)
        self.entropy = self.confidence.clone()
        self.total = self._units()
        policy.start(len(y), canvas.num_tokens)

    @property
    def hidden(self) -> Tensor:
        """(B, N): what is still to be shown."""
        return self.free & (self.y < 0)

    def step(self, k: int) -> bool:
        """One step of every example that has something hidden; False when none has. Raises RuntimeError if the policy
        shows nothing of such an example."""
        hidden = self.hidden
        active = hidden.any(-1).nonzero()[:, 0]
        if not len(active):
            return False
        cond = None if self.cond is None else {name: value[active] for name, value in self.cond.items()}
        states = self.denoiser(self.y[active], self.canvas, cond)
        u = uniforms([self.streams[b] for b in active.tolist()], 2 * self.canvas.num_tokens).to(self.y.device)
        values = torch.full_like(self.y[active], -1)
        feature = torch.zeros(len(active), self.canvas.num_tokens, self.policy.features, dtype=torch.float64)
        chance, spread = torch.zeros(2, len(active), self.canvas.num_tokens, dtype=torch.float64)
        for span in self.canvas.spans:
            self._look(span, active, states, u, hidden[active], values, feature, chance, spread)
        candidate = self._candidates(hidden[active])
        noise = u[:, self.canvas.num_tokens :].clamp(min=2.0**-60)
        look = Look(k, candidate, feature, self._units()[active], self.total[active], noise)
        self._show(k, active, hidden[active], look, values, chance, spread)
        self.nfe[active] += getattr(self.denoiser, "passes_per_call", 1)
        return True

    def _units(self) -> Tensor:
        """(B,) hidden units."""
        hidden = self.hidden
        return (hidden if self.policy.unit == "digit" else self._candidates(hidden)).sum(-1)

    def _candidates(self, hidden: Tensor) -> Tensor:
        """(A, N) -> (A, L): tokens with a hidden digit."""
        out = torch.zeros(len(hidden), self.canvas.num_tokens, dtype=torch.int64, device=hidden.device)
        return out.index_add_(1, self.canvas.token_of.to(hidden.device), hidden.long()) > 0

    def _look(
        self,
        span: Span,
        active: Tensor,
        states: Tensor,
        u: Tensor,
        hidden: Tensor,
        values: Tensor,
        feature: Tensor,
        chance: Tensor,
        spread: Tensor,
    ) -> None:
        """Draw a code for each token of a span with something hidden; describe the law of its unit."""
        where = self.canvas.token_slice(span.name)
        wanted = self.canvas.view(hidden, span.name)
        row, token = wanted.any(-1).nonzero(as_tuple=True)
        for part in chunks(len(row), span):
            b, i = row[part], token[part]
            shown = self.canvas.view(self.y, span.name)[active[b], i]
            grid = token_grid(self.denoiser, states[:, where][b, i], span)
            cell, sure, nats = draw(grid, shown, u[:, where][b, i], self.temperature, self.top_p)
            digits = unravel(cell, span.codec.radices)
            self.canvas.view(values, span.name)[b, i] = digits
            first = wanted[b, i].long().argmax(-1)
            law, value = unit_law(log_posterior(grid, shown), first, cell, digits, self.policy.unit)
            place = torch.stack([active[b], i + where.start, first], -1)
            feature[b, i + where.start] = self.policy.describe(law, value, place)
            chance[b, i + where.start], spread[b, i + where.start] = sure, nats

    def _show(
        self, k: int, active: Tensor, hidden: Tensor, look: Look, values: Tensor, chance: Tensor, spread: Tensor
    ) -> None:
        choice = self.policy.choose(look)
        reveal = choice.reveal & look.candidate
        if not bool(reveal.any(-1).all()):
            raise RuntimeError(f"{type(self.policy).__name__} shows nothing at step {k}; it would never end")
        token = self.canvas.token_of.to(self.y.device)
        chosen = reveal[:, token] & hidden
        if self.policy.unit == "digit":
            depth = torch.ones_like(look.left) if choice.depth is None else choice.depth
            chosen &= _place_among(hidden, token) < depth[:, None]
        for target, source in (
            (self.y, values), (self.rank, torch.full_like(values, k)),
            (self.confidence, chance[:, token]), (self.entropy, spread[:, token]),
        ):  # fmt: skip
            target[active] = torch.where(chosen, source, target[active])


def unit_law(posterior: Tensor, first: Tensor, cell: Tensor, digits: Tensor, unit: str) -> tuple[Tensor, Tensor]:
    """log p over grids (M, b_1, ..., b_S) -> the law of each token's unit (M, K) float64 and the value drawn (M,).

    Unit "token": over whole cells. Unit "digit": of digit place `first` (M,), padded with zeros to the largest base.
    """
    probs = posterior.double().exp()
    if unit == "token":
        return probs.flatten(1), cell
    radices = posterior.shape[1:]
    law = probs.new_zeros(len(probs), max(radices))
    for axis, radix in enumerate(radices):
        rows = first == axis
        if bool(rows.any()):
            others = [dim + 1 for dim in range(len(radices)) if dim != axis]
            law[rows, :radix] = probs[rows].sum(others) if others else probs[rows]
    return law, digits.gather(1, first[:, None])[:, 0]


def _place_among(hidden: Tensor, token: Tensor) -> Tensor:
    """(A, N): how many hidden digits of the same token come before each sub-token."""
    before = hidden.long().cumsum(-1) - hidden.long()
    start = torch.cat([token.new_ones(1, dtype=torch.bool), token[1:] != token[:-1]])
    base = torch.where(start, before, 0).cummax(-1).values
    return before - base
