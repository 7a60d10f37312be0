"""The one sampling loop: it stands between two steps of a batch, and can be looked at, saved and taken up again.

    for k = 1, 2, ...:   hidden = denoiser(y);   for each token looked at:   v ~ p(v | hidden, its visible digits)
                         the sampler selects sub-tokens;   they are revealed with the digits of v

Drawing the whole code and revealing part of it draws exactly from the marginal of the joint; what is visible never
changes unless a sampler masks it again, and no code that does not exist can come out (carry-over by construction). An
example is forwarded only at steps that need it and until nothing of it is masked, so no call is idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .codec import MASK_ID
from .denoiser import DRAWN_AT_ONCE, Denoiser, chunks, completed
from .heads import Request, Tokens
from .plan import ABSENT
from .rng import uniforms
from .rows import Condition
from .samplers.base import Reveal, Sampler, Start, View

_LATER = torch.iinfo(torch.int64).max  # the rank of what is not revealed yet
_ROWS = ("y", "rank", "nfe", "idle_steps", "confidence", "entropy")


@dataclass(frozen=True)
class ValueSampling:
    """How values are drawn. temperature: a number, or (N,) for each sub-token (a token drawn as a whole takes that of
    the first digit it reveals); 0 is greedy. top_p in (0, 1] applies to what the head draws at once: a whole token, or
    a digit. Raises ValueError on others."""

    temperature: float | Tensor = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        heat = torch.as_tensor(self.temperature)
        if not bool(((heat >= 0) & heat.isfinite()).all()):
            raise ValueError(f"temperature must be >= 0 and finite, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

    def of(self, canvas: Canvas, span: Span, token: Tensor) -> float | Tensor:
        """The temperature of some tokens of a span (m,): a number or (m, S)."""
        if isinstance(self.temperature, float | int):
            return self.temperature
        return canvas.view(self.temperature, span.name)[token]


class Rollout:
    """number: steps done; y (B, N); rank (B, N) the step at which a sub-token was revealed, 0 given, -1 absent; nfe
    (B,) forward passes; idle_steps (B,) steps of a plan before an example's last reveal at which it revealed nothing
    (skipped, not computed); confidence, entropy (B, N) of the distribution a digit was drawn from, NaN where none was.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        start: Start,
        y: Tensor,
        streams: list[torch.Generator],
        values: ValueSampling,
        cond: Condition | None = None,
    ) -> None:
        self.denoiser, self.sampler, self.canvas, self.cond = completed(denoiser), sampler, start.canvas, cond
        if isinstance(values.temperature, Tensor):
            values = replace(values, temperature=values.temperature.to(y.device))
        self.y, self.streams, self.values, self.number = y, streams, values, 0
        self.free = ~(start.given | start.absent).to(y.device)
        self.rank = torch.where(self.free, _LATER, torch.where(start.absent.to(y.device), ABSENT, 0))
        self.nfe = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        self.idle_steps = torch.zeros_like(self.nfe)
        self.confidence = torch.full(y.shape, torch.nan, dtype=torch.float64, device=y.device)
        self.entropy = self.confidence.clone()
        self.parts = self.canvas.num_subtokens if sampler.each_digit else self.canvas.num_tokens
        self.total = self._units()
        self.heads = {span.name: self.denoiser.head(span) for span in self.canvas.spans}
        self.width = sum(span.num_tokens * self.heads[span.name].num_uniforms(span) for span in self.canvas.spans)
        self.memory = {
            name: value.to(y.device) for name, value in sampler.begin(replace(start, heads=self.heads)).items()
        }

    # ---------------------------------------------------------------- what a user of a rollout does

    @property
    def masked(self) -> Tensor:
        """(B, N): what is still to be revealed."""
        return self.free & (self.y < 0)

    @property
    def under_way(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._active().any())

    @torch.no_grad()
    def step(self) -> bool:
        """One step of every example that is not done; False when all are. Raises RuntimeError if an adaptive sampler
        that does not remask reveals nothing."""
        example = self._active().nonzero()[:, 0]
        if not len(example):
            return False
        self.number += 1
        if self.sampler.looks or self.sampler.noise_per != "none":
            noises = self.canvas.num_subtokens if self.sampler.noise_per == "digit" else self.parts
            u, noise = self._uniforms(example, self.width + noises).tensor_split([self.width], dim=1)
            view = self._view(example, noise.clamp(min=2.0**-60))
        else:
            view = self._view(example, self.confidence.new_zeros(len(example), 0))
        if self.sampler.looks:
            proposal = self._propose(example, view.masked, self._looked_at(view), u)
            reveal = self._select(replace(view, feature=proposal.feature))
        else:
            reveal = self._select(view)
            if self.sampler.noise_per == "none":
                some = reveal.reveal.any(-1)
                self.idle_steps[example] += ~some
                rows = some.nonzero()[:, 0]
                example, reveal = example[rows], Reveal(reveal.reveal[rows])
                u = self._uniforms(example, self.width)
            proposal = self._propose(example, reveal.reveal, reveal.reveal, u)
        self._reveal(example, reveal, proposal)
        return True

    def state(self) -> dict[str, Tensor]:
        """All that a rollout of the same request needs to go on from here."""
        return {
            **{name: getattr(self, name).clone() for name in _ROWS},
            **{f"sampler.{name}": value.clone() for name, value in self.memory.items()},
            "number": torch.tensor(self.number),
            "streams": torch.stack([g.get_state() for g in self.streams]) if self.streams else torch.zeros(0, 0),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of a rollout of the same request. Raises ValueError when it does not fit."""
        stored = {name: getattr(self, name) for name in _ROWS}
        stored |= {f"sampler.{name}": value for name, value in self.memory.items()}
        if missing := sorted({*stored, "number", "streams"} - set(state)):
            raise ValueError(f"a state of a rollout by {self.sampler.name!r} has {missing[0]!r}; this one has not")
        for name, value in stored.items():
            if (state[name].shape, state[name].dtype) != (value.shape, value.dtype):
                got, wanted = (f"{each.dtype} {tuple(each.shape)}" for each in (state[name], value))
                raise ValueError(f"{name} of the state is {got}, of the rollout {wanted}")
        if not torch.equal((state["rank"] > 0).to(self.free), self.free):
            raise ValueError("the state belongs to a rollout with other given parts")
        if "rank" in self.memory and not torch.equal(
            state["sampler.rank"].to(self.memory["rank"]), self.memory["rank"]
        ):
            raise ValueError("the state belongs to a rollout of another plan")
        self.canvas.check_digits(state["y"])
        if bool((state["y"] < MASK_ID).any()):
            raise ValueError("y of the state has negative digits that are no mask")
        if len(state["streams"]) != len(self.streams):
            raise ValueError(f"the state has {len(state['streams'])} streams, the rollout {len(self.streams)}")
        for name in _ROWS:
            setattr(self, name, state[name].to(self.y.device).clone())
        self.memory = {name: state[f"sampler.{name}"].to(self.y.device).clone() for name in self.memory}
        self.number = int(state["number"])
        for stream, saved in zip(self.streams, state["streams"]):
            try:
                stream.set_state(saved.cpu().clone())  # a row of a larger tensor would crash it
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"a stream of the state is none: {error}") from error

    # ---------------------------------------------------------------- parts of a step

    def _active(self) -> Tensor:
        """(B,): the examples that the next step is for."""
        remasking = self.sampler.remasks and self.number < self.sampler.last_step
        return torch.ones_like(self.nfe, dtype=torch.bool) if remasking else self.masked.any(-1)

    def _units(self) -> Tensor:
        """(B,) masked units."""
        masked = self.masked
        return (masked if self.sampler.unit_of == "digit" else self.canvas.tokens_with(masked)).sum(-1)

    def _uniforms(self, example: Tensor, width: int) -> Tensor:
        return uniforms([self.streams[b] for b in example.tolist()], width).to(self.y.device)

    def _view(self, example: Tensor, noise: Tensor) -> View:
        masked, free = self.masked[example], self.free[example]
        candidate = self.canvas.tokens_with(masked)
        unmasked = self.canvas.tokens_with(free) & ~candidate
        feature = self.confidence.new_zeros(len(example), self.parts, self.sampler.features)
        return View(
            self.number, self.canvas, masked, free & ~masked, candidate, unmasked, self._units()[example],
            self.total[example], noise, example, feature, self.memory,
        )  # fmt: skip

    def _looked_at(self, view: View) -> Tensor:
        """(A, N): the sub-tokens that the sampler may select or scores."""
        if self.sampler.scores_unmasked:
            return view.masked | view.visible
        return view.masked & self.sampler.window(view.candidate)[:, self.canvas.token_on(view.masked.device)]

    def _propose(self, example: Tensor, masked: Tensor, looked_at: Tensor, u: Tensor) -> _Proposal:
        """One forward pass of the examples with something in `masked` (A, N), and values for the sub-tokens looked
        at."""
        sure, nats = u.new_zeros(2, *masked.shape)
        feature = u.new_zeros(len(u), self.parts, self.sampler.features)
        out = _Proposal(torch.full_like(masked, -1, dtype=torch.int64), sure, nats, feature)
        rows = masked.any(-1).nonzero()[:, 0]
        if not len(rows):
            return out
        asked = example[rows]
        cond = None if self.cond is None else {name: value[asked] for name, value in self.cond.items()}
        wanted = self.canvas.tokens_with(looked_at[rows])
        hidden = self.denoiser.hidden_at(self.y[asked], self.canvas, cond, wanted)
        self.nfe[asked] += self.denoiser.passes(self.y[asked], cond)
        end = 0
        for span in self.canvas.spans:
            head, where = self.heads[span.name], self.canvas.token_slice(span.name)
            start, end = end, end + span.num_tokens * head.num_uniforms(span)
            uniform = u[rows, start:end].unflatten(1, (span.num_tokens, -1))
            digits = self.canvas.view(looked_at[rows], span.name)
            row, token = digits.any(-1).nonzero(as_tuple=True)
            for part in chunks(len(row), head.size(span), DRAWN_AT_ONCE):
                a, i = row[part], token[part]
                tokens = Tokens(span, hidden[:, where][a, i], self.canvas.view(self.y, span.name)[asked[a], i], i)
                self._propose_values(tokens, digits[a, i], uniform[a, i], (rows[a], asked[a]), out)
        return out

    def _propose_values(
        self, tokens: Tokens, asked: Tensor, u: Tensor, rows: tuple[Tensor, Tensor], out: _Proposal
    ) -> None:
        """Draw for some tokens and let the sampler describe their units; rows: their rows in `out` and in the
        rollout."""
        span, (row, example) = tokens.span, rows
        temperature = self.values.of(self.canvas, span, tokens.index)
        if self.sampler.sharpness != 1:
            temperature = temperature / self.sampler.sharpness
        unit, visible = (self.sampler.unit_of if self.sampler.looks else ""), tokens.visible >= 0
        if self.sampler.each_digit:
            unit, again = "each", asked & visible
            asked = asked & ~visible
        else:
            whole = visible.all(-1, keepdim=True)  # only where unmasked tokens are scored: as if masked
            again = whole & self.canvas.view(self.free, span.name)[example, tokens.index]  # what is given stays visible
        request = Request(asked, u, temperature, self.values.top_p, unit, again)
        drawn = self.heads[span.name].sample(self.denoiser, tokens, request)
        for target, source in (
            (out.values, drawn.digits), (out.confidence, drawn.confidence), (out.entropy, drawn.entropy),
        ):  # fmt: skip
            self.canvas.view(target, span.name)[row, tokens.index] = source
        if not self.sampler.looks or drawn.unit is None:
            return
        token = tokens.index + self.canvas.token_slice(span.name).start
        if not self.sampler.each_digit:
            index = torch.stack([example, token, request.first], -1)
            out.feature[row, token] = self.sampler.describe(*drawn.unit, index, self.memory)
            return
        each, level = (asked | again).nonzero(as_tuple=True)
        index = torch.stack([example[each], token[each], level], -1)
        probs, value = (of[each, level][:, None] for of in drawn.unit)
        position = self.canvas.subtoken_slice(span.name).start + tokens.index[each] * span.codec.num_digits + level
        out.feature[row[each], position] = self.sampler.describe(probs, value, index, self.memory)

    def _select(self, view: View) -> Reveal:
        """What the sampler selects, of what is masked and visible."""
        selected = self.sampler.select(view)
        reveal = selected.reveal & view.masked
        if self.sampler.looks and not self.sampler.remasks and not bool(reveal.any(-1).all()):
            raise RuntimeError(f"{self.sampler} reveals nothing at step {view.step}; it would never end")
        return Reveal(reveal, None if selected.remask is None else selected.remask & view.visible)

    def _reveal(self, example: Tensor, selected: Reveal, proposal: _Proposal) -> None:
        """Carry it out."""
        for target, source in (
            (self.y, proposal.values), (self.rank, torch.full_like(proposal.values, self.number)),
            (self.confidence, proposal.confidence), (self.entropy, proposal.entropy),
        ):  # fmt: skip
            target[example] = torch.where(selected.reveal, source, target[example])
        if selected.remask is not None:
            self.y[example] = self.y[example].masked_fill(selected.remask, MASK_ID)


@dataclass
class _Proposal:
    """For A examples: values (A, N) drawn; confidence, entropy (A, N) of the distributions they were drawn from;
    feature (A, L, F), or (A, N, F) where the sampler has each digit described."""

    values: Tensor
    confidence: Tensor
    entropy: Tensor
    feature: Tensor
