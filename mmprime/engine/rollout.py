"""A sampling run that stands between two steps: what every way of revealing shares, and the run of a plan.

A run can be looked at after every step, stopped, saved (`state`) and taken up again (`load_state`) to the same sample,
bit for bit: its state holds the canvas and the random streams of all examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .codec import MASK_ID
from .denoiser import DRAWN_AT_ONCE, Condition, Denoiser, chunks, forward_passes, hidden_states, token_grid
from .heads.softmax import draw, unravel
from .plan import Plan
from .rng import uniforms


@dataclass(frozen=True)
class Drawing:
    """How values are drawn. temperature: a number, or (N,) for each sub-token (a token drawn at one step takes that of
    the first digit it reveals); 0 is greedy. top_p in (0, 1] applies to whole tokens. Raises ValueError on others."""

    temperature: float | Tensor = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        heat = torch.as_tensor(self.temperature)
        if not bool(((heat >= 0) & heat.isfinite()).all()):
            raise ValueError(f"temperature must be >= 0 and finite, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

    def of(self, canvas: Canvas, span: Span, token: Tensor, first: Tensor) -> float | Tensor:
        """The temperature of some tokens of a span (m,) whose first revealed digit is `first` (m,)."""
        if isinstance(self.temperature, float | int):
            return self.temperature
        return canvas.view(self.temperature, span.name)[token, first]


class Run:
    """number: steps done; y (B, N); rank (B, N); nfe (B,) forward passes; confidence, entropy (B, N), NaN where
    nothing was drawn. `step` does one step and says whether there was one to do."""

    _ROWS = ("y", "rank", "nfe", "confidence", "entropy")

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        y: Tensor,
        rank: Tensor,
        streams: list[torch.Generator],
        drawing: Drawing,
        cond: Condition | None,
    ) -> None:
        self.denoiser, self.canvas, self.drawing, self.cond = denoiser, canvas, drawing, cond
        self.y, self.rank, self.streams = y, rank, streams
        self.number = 0
        self.nfe = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        self.confidence = torch.full(y.shape, torch.nan, dtype=torch.float64, device=y.device)
        self.entropy = self.confidence.clone()

    def step(self) -> bool:
        """Do the next step; False when the run is over."""
        raise NotImplementedError

    @property
    def idle_steps(self) -> Tensor:
        """(B,) steps so far of a plan that revealed nothing in an example that had something left to reveal; they were
        not computed. What comes after the last reveal of an example is no step of it. 0 of a policy."""
        raise NotImplementedError

    @property
    def under_way(self) -> bool:
        """Whether `step` has anything to do."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """All that a run of the same request needs to go on from here."""
        rows = {name: getattr(self, name).clone() for name in self._ROWS}
        return {
            **rows,
            "number": torch.tensor(self.number),
            "streams": torch.stack([g.get_state() for g in self.streams]) if self.streams else torch.zeros(0, 0),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of a run of the same request. Raises ValueError when it does not fit."""
        if missing := sorted({*self._ROWS, "number", "streams"} - set(state)):
            raise ValueError(f"a state of a run has no {missing[0]!r}")
        for name in self._ROWS:
            own = getattr(self, name)
            if state[name].shape != own.shape or state[name].dtype != own.dtype:
                shape = f"{state[name].dtype} {tuple(state[name].shape)}"
                raise ValueError(f"{name} of the state is {shape}, of the run {own.dtype} {tuple(own.shape)}")
            setattr(self, name, state[name].to(own.device).clone())
        for span in self.canvas.spans:
            digits = self.canvas.view(self.y, span.name)
            radices = torch.tensor(span.codec.radices, device=digits.device)
            if bool(((digits >= radices) | (digits < MASK_ID)).any()):
                raise ValueError(f"y of the state has digits that {span.name!r} does not have")
        if len(state["streams"]) != len(self.streams):
            raise ValueError(f"the state has {len(state['streams'])} streams, the run {len(self.streams)}")
        self.number = int(state["number"])
        for stream, saved in zip(self.streams, state["streams"]):
            try:
                stream.set_state(saved.cpu().clone())  # a row of a larger tensor would crash it
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"a stream of the state is none: {error}") from error

    def forward(self, example: Tensor, wanted: Tensor) -> Tensor:
        """Hidden states of the tokens `wanted` (A, L) of some examples (A,) as they stand; counts what it costs."""
        cond = None if self.cond is None else {name: value[example] for name, value in self.cond.items()}
        hidden = hidden_states(self.denoiser, self.y[example], self.canvas, cond, wanted)
        self.nfe[example] += forward_passes(self.denoiser, self.y[example], cond)
        return hidden


class PlanRun(Run):
    """The run of a plan."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        plan: Plan,
        y: Tensor,
        streams: list[torch.Generator],
        drawing: Drawing,
        cond: Condition | None = None,
    ) -> None:
        super().__init__(denoiser, canvas, y, plan.rank.to(y.device), streams, drawing, cond)
        self.num_steps, used = plan.num_steps, plan.steps_used.to(y.device)
        self._idle = ~used & (used.flip(-1).cumsum(-1).flip(-1) > 0)  # (B, K): nothing now, something later

    @property
    def idle_steps(self) -> Tensor:
        return self._idle[:, : self.number].sum(-1)

    @property
    def under_way(self) -> bool:
        return self.number < self.num_steps

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if "rank" in state and not torch.equal(state["rank"].to(self.rank), self.rank):
            raise ValueError("the state belongs to a run of another plan")
        super().load_state(state)

    @torch.no_grad()
    def step(self) -> bool:
        """Reveal the sub-tokens of the next rank; one forward pass of the examples that have any."""
        if not self.under_way:
            return False
        self.number += 1
        reveal = self.rank == self.number
        active = reveal.any(-1).nonzero()[:, 0]
        if len(active):
            reveal = reveal[active]
            hidden = self.forward(active, self.canvas.tokens_with(reveal))
            u = uniforms([self.streams[b] for b in active.tolist()], self.canvas.num_tokens).to(self.y.device)
            for span in self.canvas.spans:
                self._reveal_span(span, active, reveal, hidden, u)
        return True

    def _reveal_span(self, span: Span, active: Tensor, reveal: Tensor, hidden: Tensor, u: Tensor) -> None:
        wanted = self.canvas.view(reveal, span.name)  # (A, L, S)
        row, token = wanted.any(-1).nonzero(as_tuple=True)
        where = self.canvas.token_slice(span.name)
        states, u = hidden[:, where][row, token], u[:, where][row, token]
        example = active[row]
        for part in chunks(len(row), span, DRAWN_AT_ONCE):
            b, i = example[part], token[part]
            shown = self.canvas.view(self.y, span.name)[b, i]
            chosen = wanted[row[part], i]
            grid = token_grid(self.denoiser, states[part], span, i)
            temperature = self.drawing.of(self.canvas, span, i, chosen.long().argmax(-1))
            cell, confidence, entropy = draw(grid, shown, u[part], temperature, self.drawing.top_p)
            self._write(self.y, span, b, i, chosen, unravel(cell, span.codec.radices))
            self._write(self.confidence, span, b, i, chosen, confidence[:, None].expand(chosen.shape))
            self._write(self.entropy, span, b, i, chosen, entropy[:, None].expand(chosen.shape))

    def _write(self, target: Tensor, span: Span, b: Tensor, i: Tensor, chosen: Tensor, values: Tensor) -> None:
        view = self.canvas.view(target, span.name)  # shares storage with target
        view[b, i] = torch.where(chosen, values, view[b, i])
