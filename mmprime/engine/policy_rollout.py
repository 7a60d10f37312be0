"""Running a policy: look at all hidden tokens, let the policy choose, show what it chose.

An example is forwarded until nothing of it is hidden, so there is no idle step; `rank` records when each sub-token was
shown, and a run of a policy leaves the same record as a run of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .codec import MASK_ID
from .denoiser import DRAWN_AT_ONCE, Condition, Denoiser, chunks, token_grid
from .heads.softmax import draw, log_posterior, unravel
from .plan import ABSENT
from .policy import Digits, Look, Policy
from .rng import uniforms
from .rollout import Drawing, Run

_LATER = torch.iinfo(torch.int64).max  # the rank of what is not revealed yet


class PolicyRun(Run):
    """The run of a policy: `rank` as executed. free (B, N) is what the policy may reveal."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        policy: Policy,
        y: Tensor,
        free: Tensor,
        streams: list[torch.Generator],
        drawing: Drawing,
        cond: Condition | None = None,
    ) -> None:
        rank = torch.where(free, _LATER, torch.where(y >= 0, 0, ABSENT))
        super().__init__(denoiser, canvas, y, rank, streams, drawing, cond)
        self.policy, self.free = policy, free
        self.total = self._units()
        self.memory = {name: value.to(y.device) for name, value in policy.remember(len(y), canvas).items()}

    @property
    def hidden(self) -> Tensor:
        """(B, N): what is still to be shown."""
        return self.free & (self.y < 0)

    @property
    def under_way(self) -> bool:
        return bool(self.hidden.any()) or (
            self.policy.remasks and self.number < self.policy.last_step and len(self.y) > 0
        )

    @property
    def idle_steps(self) -> Tensor:
        return torch.zeros_like(self.nfe)

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), **{f"policy.{name}": value.clone() for name, value in self.memory.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        if not torch.equal(self.rank > 0, self.free):
            raise ValueError("the state belongs to a run with other given parts")
        for name, own in self.memory.items():
            saved = state.get(f"policy.{name}")
            if saved is None or (saved.shape, saved.dtype) != (own.shape, own.dtype):
                raise ValueError(f"the state belongs to a run of another policy: it has no policy.{name} of its shape")
            self.memory[name] = saved.to(own.device).clone()

    @torch.no_grad()
    def step(self) -> bool:
        """One step of every example that is not done; False when all are. An example with nothing hidden, or to which
        a blind policy shows nothing, is not forwarded. Raises RuntimeError if a policy that does not remask shows
        nothing."""
        hidden, k = self.hidden, self.number + 1
        remasking = self.policy.remasks and k <= self.policy.last_step
        example = torch.arange(len(hidden)) if remasking else hidden.any(-1).nonzero()[:, 0]
        if not len(example):
            return False
        self.number = k
        hidden = hidden[example]
        tokens = self.canvas.num_tokens
        noises = self.canvas.num_subtokens if self.policy.digit_noise else tokens
        u = uniforms([self.streams[b] for b in example.tolist()], tokens + noises).to(self.y.device)
        free, candidate = self.free[example], self.canvas.tokens_with(hidden)
        shown = self.canvas.tokens_with(free) & ~candidate
        noise = u[:, tokens:].clamp(min=2.0**-60)
        left, total = self._units()[example], self.total[example]
        nothing, visible = u.new_zeros(*candidate.shape, self.policy.features), free & ~hidden
        look = Look(
            k, candidate, nothing, left, total, noise, shown, example, self.canvas, hidden, visible, self.memory
        )
        if self.policy.blind:
            digits = self._choose(look)
            proposal = self._propose(example, digits.reveal, digits.reveal, u[:, :tokens])
        else:
            proposal = self._propose(example, hidden, self._looked_at(example, hidden), u[:, :tokens])
            digits = self._choose(replace(look, feature=proposal.feature))
        self._show(look, digits, proposal)
        return True

    def _units(self) -> Tensor:
        """(B,) hidden units."""
        hidden = self.hidden
        return (hidden if self.policy.unit == "digit" else self.canvas.tokens_with(hidden)).sum(-1)

    def _looked_at(self, example: Tensor, hidden: Tensor) -> Tensor:
        """(A, N): the sub-tokens that the policy may choose among or judges."""
        if self.policy.judges_shown:
            return self.free[example]
        return hidden & self.policy.window(self.canvas.tokens_with(hidden))[:, self.canvas.token_of.to(hidden.device)]

    def _propose(self, example: Tensor, hidden: Tensor, looked_at: Tensor, u: Tensor) -> _Proposal:
        """One forward pass of the examples with something hidden (A, N), and a code drawn for each token looked at."""
        shape = (*u.shape, self.policy.features)
        out = _Proposal(torch.full_like(hidden, -1, dtype=torch.int64), u.new_zeros(shape), *u.new_zeros(2, *u.shape))
        rows = hidden.any(-1).nonzero()[:, 0]
        if not len(rows):
            return out
        asked = example[rows]
        states = self.forward(asked, self.canvas.tokens_with(looked_at[rows]))
        for span in self.canvas.spans:
            where = self.canvas.token_slice(span.name)
            wanted = self.canvas.view(looked_at[rows], span.name)
            row, token = wanted.any(-1).nonzero(as_tuple=True)
            for part in chunks(len(row), span, DRAWN_AT_ONCE):
                a, i = row[part], token[part]
                place = torch.stack([asked[a], i + where.start, wanted[a, i].long().argmax(-1)], -1)
                self._describe(span, states[:, where][a, i], place, u[rows[a], i + where.start], rows[a], out)
        return out

    def _describe(self, span: Span, states: Tensor, place: Tensor, u: Tensor, row: Tensor, out: _Proposal) -> None:
        """Draw a code for some tokens of a span and let the policy describe their units; place as in `describe`."""
        example, token, first = place.unbind(-1)
        inside = token - self.canvas.token_slice(span.name).start
        shown = self.canvas.view(self.y, span.name)[example, inside]
        grid = token_grid(self.denoiser, states, span, inside)
        temperature = self.drawing.of(self.canvas, span, inside, first) / self.policy.sharpness
        drawn = draw(grid, shown, u, temperature, self.drawing.top_p)
        cell, out.confidence[row, token], out.entropy[row, token] = drawn
        digits = unravel(cell, span.codec.radices)
        self.canvas.view(out.values, span.name)[row, inside] = digits
        if self.policy.blind:
            return
        whole = (shown >= 0).all(-1, keepdim=True)  # only where shown tokens are judged: their law as if hidden
        again = whole & self.canvas.view(self.free, span.name)[example, inside]  # what is given stays visible
        law, value = unit_law(
            log_posterior(grid, shown.masked_fill(again, MASK_ID)), first, cell, digits, self.policy.unit
        )
        out.feature[row, token] = self.policy.describe(law, value, place, self.memory)

    def _choose(self, look: Look) -> Digits:
        """What the policy chooses for the examples look.example, of what may be shown and hidden."""
        choice = self.policy.choose(look)
        digits = choice if isinstance(choice, Digits) else choice.digits(look, self.policy.unit)
        reveal = digits.reveal & look.hidden
        if not self.policy.remasks and not bool(reveal.any(-1).all()):
            raise RuntimeError(f"{type(self.policy).__name__} shows nothing at step {look.step}; it would never end")
        return Digits(reveal, None if digits.hide is None else digits.hide & look.visible)

    def _show(self, look: Look, digits: Digits, proposal: _Proposal) -> None:
        """Carry it out."""
        token = self.canvas.token_of.to(self.y.device)
        for target, source in (
            (self.y, proposal.values), (self.rank, torch.full_like(proposal.values, look.step)),
            (self.confidence, proposal.confidence[:, token]), (self.entropy, proposal.entropy[:, token]),
        ):  # fmt: skip
            target[look.example] = torch.where(digits.reveal, source, target[look.example])
        if digits.hide is not None:
            self.y[look.example] = self.y[look.example].masked_fill(digits.hide, MASK_ID)


@dataclass
class _Proposal:
    """For A examples: values (A, N) drawn digits; feature (A, L, F); confidence, entropy (A, L) of the drawn codes."""

    values: Tensor
    feature: Tensor
    confidence: Tensor
    entropy: Tensor


def unit_law(posterior: Tensor, first: Tensor, cell: Tensor, digits: Tensor, unit: str) -> tuple[Tensor, Tensor]:
    """log p over grids (M, b_1, ..., b_S) -> the law of each token's unit (M, K) float64 and the value drawn (M,).

    Unit "token": over whole cells. Unit "digit": of digit place `first` (M,), padded with zeros to the largest base.
    """
    probs = posterior.exp()
    if unit == "token":
        return probs.flatten(1).double(), cell
    radices = posterior.shape[1:]
    law = probs.new_zeros(len(probs), max(radices), dtype=torch.float64)
    for axis, radix in enumerate(radices):
        rows = first == axis
        if bool(rows.any()):
            others = [dim + 1 for dim in range(len(radices)) if dim != axis]
            own = probs[rows]
            law[rows, :radix] = own.sum(others, dtype=torch.float64) if others else own.double()
    return law, digits.gather(1, first[:, None])[:, 0]
