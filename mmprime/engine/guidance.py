"""Classifier-free guidance as a denoiser around a denoiser.

    ℓ = ℓ_c + w_i·r(p) (ℓ_c - ℓ_u),      w_i scale of token i,  p share of free sub-tokens already visible

    r(p) = 1 constant | p linear | (1 - cos(π p^s))/2 power_cosine | 1 where lo <= p < hi, else 0 interval

ℓ_c is the conditional branch, ℓ_u the unconditional one: it masks the condition's sub-tokens and takes the null class.
A condition `NEGATIVE` (B, N) has rows that ℓ_u sees in place of the mask there: a negative prompt.
Both run in one batched pass; an example whose weight is 0 everywhere at a step is not forwarded a second time. Only the
distribution of the drawn values changes, never when a plan reveals: the guided rates of Nisonoff et al. are here the
plan's rate times p_c^(1+w) p_u^(-w), and its sum over the codes, which would change the rate, is divided out token by
token (digit by digit where a head draws digits). A code with p_c = 0 stays impossible for every w > -1.

Sources: Ho & Salimans, arXiv 2207.12598; Nisonoff et al., arXiv 2406.01572 (discrete); Chang et al. (Muse), arXiv
2301.00704 (linear); Gao et al. (MDT), arXiv 2303.14389 (power-cosine, s = 4 in their code); Kynkäänniemi et al., arXiv
2404.07724 (interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Canvas, Span
from .codec import MASK_ID
from .denoiser import Condition, Denoiser, Wrapper
from .heads import DigitQuery

NEGATIVE = "guidance_negative"
_DROP, _FREE, _SCALE = "guidance_drop", "guidance_free", "guidance_scale"
_RESERVED = (NEGATIVE, _DROP, _FREE, _SCALE)
SCHEDULES = ("constant", "linear", "power_cosine[:POWER]", "interval:LO:HI")
Scale = float | Mapping[str, float] | Tensor


@dataclass(frozen=True, eq=False)
class Guidance:
    """How strongly to guide. Scale 0 is none, -1 the unconditional distribution.

    scale: one number, one for each span by name (0 for those left out), or (L,) one for each token of the canvas.
    schedule: one of `SCHEDULES`, e.g. "power_cosine:2" or "interval:0.1:0.8" in shares of what is visible.
    Raises ValueError on an unknown schedule and on scales that are not finite numbers >= -1.
    """

    scale: Scale
    schedule: str = "linear"

    def __post_init__(self) -> None:
        _shape(self.schedule)
        values = self._values()
        if not bool(((values >= -1) & values.isfinite()).all()):
            raise ValueError(f"guidance must be a finite number >= -1, got {self.scale}")

    @classmethod
    def of(cls, guidance: float | Guidance | None) -> Guidance:
        """A number is a scale with the linear schedule, None is scale 0."""
        return guidance if isinstance(guidance, Guidance) else cls(guidance or 0.0)

    def __bool__(self) -> bool:
        """Whether anything is guided."""
        return bool(self._values().any())

    def __str__(self) -> str:
        """As the command line takes it: the scale, and the schedule unless it is linear."""
        if isinstance(self.scale, Tensor):
            scale = "by token"
        elif isinstance(self.scale, Mapping):
            scale = ",".join(f"{name}={value:g}" for name, value in self.scale.items())
        else:
            scale = f"{self.scale:g}"
        return scale if self.schedule == "linear" else f"{scale} {self.schedule}"

    def scales(self, canvas: Canvas) -> Tensor:
        """(L,) scale of each token. Raises ValueError on a span the canvas lacks, or a tensor of another shape."""
        return token_values(self.scale, canvas, "guidance")

    def share(self, visible: Tensor) -> Tensor:
        """r in [0, 1] at visible shares p."""
        return _shape(self.schedule)(visible)

    def _values(self) -> Tensor:
        scale = self.scale
        values = scale if isinstance(scale, Tensor | float | int) else list(scale.values())
        return torch.as_tensor(values, dtype=torch.float64)


def token_values(value: Scale, canvas: Canvas, what: str) -> Tensor:
    """(L,) float64 from a number, numbers by span name (0 for those left out), or a tensor (L,)."""
    out = torch.zeros(canvas.num_tokens, dtype=torch.float64)
    if isinstance(value, Tensor):
        if value.shape != out.shape:
            raise ValueError(
                f"{what} has shape {tuple(value.shape)}, the canvas {canvas.num_tokens} tokens; one for each"
            )
        return out + value.to(out)
    if not isinstance(value, Mapping):
        return out + value
    for name, number in value.items():
        out[canvas.token_slice(name)] = number
    return out


def _shape(schedule: str) -> Callable[[Tensor], Tensor]:
    """The function r(p) a schedule names. Raises ValueError."""
    name, *words = schedule.split(":")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    match name, numbers or [4.0]:
        case "constant", _ if not numbers:
            return torch.ones_like
        case "linear", _ if not numbers:
            return lambda p: p
        case "power_cosine", [power] if 0 < power < math.inf:
            return lambda p: (1 - torch.cos(math.pi * p**power)) / 2
        case "interval", [low, high] if 0 <= low < high <= 1:
            return lambda p: ((low <= p) & (p < high)).to(p.dtype)
    raise ValueError(
        f"no guidance schedule {schedule!r}; there are {', '.join(SCHEDULES)} with POWER > 0 and 0 <= LO < HI <= 1"
    )


class Guided(Wrapper):
    """A guided denoiser: calls need the condition that `condition` extends."""

    def __init__(self, denoiser: Denoiser, guidance: Guidance) -> None:
        super().__init__(denoiser)
        self.guidance = guidance

    def condition(self, canvas: Canvas, rank: Tensor, cond: Condition | None) -> Condition:
        """Extend cond by what the unconditional branch masks: every span that is wholly given, rank 0 of (B, N).

        Raises ValueError when there is neither a given span nor a condition to drop.
        """
        given, free = rank == 0, rank > 0
        drop = torch.zeros_like(given)
        for span in canvas.spans:
            inside = canvas.mask(span.name).to(given.device)
            drop |= inside & (given | ~inside).all(-1, keepdim=True)
        classes = [name for name in cond or {} if name != NEGATIVE]
        if not drop.any() and not classes:
            raise ValueError("nothing to guide by: no span is wholly given and there is no class condition")
        guided = torch.cat([canvas.view(free, span.name).any(-1) for span in canvas.spans], -1)
        if not classes:
            guided &= drop.any(-1, keepdim=True)
        scale = self.guidance.scales(canvas).to(rank.device) * guided
        return {**(cond or {}), _DROP: drop, _FREE: free, _SCALE: scale}

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        return self.hidden_at(y, canvas, cond, torch.ones(len(y), canvas.num_tokens, dtype=torch.bool, device=y.device))

    def hidden_at(self, y: Tensor, canvas: Canvas, cond: Condition | None, wanted: Tensor) -> Tensor:
        """Both branches side by side, of which only the tokens `wanted` (B, L) will be read."""
        assert cond is not None, "call Guided.condition first"
        weight = self._weight(y, cond)
        rows = weight.any(-1).nonzero()[:, 0]
        plain = {name: value for name, value in cond.items() if name not in _RESERVED}
        null = self.denoiser.null_condition(plain) if plain else {}
        both = {name: torch.cat([value, null[name][rows]]) for name, value in plain.items()}
        away = cond[NEGATIVE][rows] if NEGATIVE in cond else torch.full_like(y[rows], MASK_ID)
        states = torch.cat([y, torch.where(cond[_DROP][rows], away, y[rows])])
        hidden = self.denoiser.hidden_at(states, canvas, both or None, torch.cat([wanted, wanted[rows]]))
        with_condition, without = hidden.split([len(y), len(rows)])
        without = with_condition.index_copy(0, rows, without)
        return torch.cat([with_condition, without, weight[..., None].to(without)], -1)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        width = (hidden.shape[-1] - 1) // 2
        rows = hidden[:, -1].nonzero()[:, 0]
        with_condition = self.denoiser.logits(hidden[:, :width], span)
        without = self.denoiser.logits(hidden[rows, width:-1], span)
        return _guided(with_condition, without, hidden[rows, -1:], rows)

    def code_logits(self, hidden: Tensor, span: Span, codes: Tensor) -> Tensor:
        width = (hidden.shape[-1] - 1) // 2
        rows = hidden[:, -1].nonzero()[:, 0]
        with_condition = self.denoiser.code_logits(hidden[:, :width], span, codes)
        without = self.denoiser.code_logits(hidden[rows, width:-1], span, codes[rows])
        return _guided(with_condition, without, hidden[rows, -1:], rows)

    def digit_logits(self, hidden: Tensor, span: Span, query: DigitQuery) -> Tensor:
        """Each digit is guided, given what is known of its token."""
        width = (hidden.shape[-1] - 1) // 2
        weight = hidden[query.token, -1]
        rows = weight.nonzero()[:, 0]
        with_condition = self.denoiser.digit_logits(hidden[:, :width], span, query)
        some = DigitQuery(query.token[rows], query.level[rows], query.known[rows])
        without = self.denoiser.digit_logits(hidden[:, width:-1], span, some)
        return _guided(with_condition, without, weight[rows, None], rows)

    def passes(self, y: Tensor, cond: Condition | None) -> Tensor:
        """(B,) forward passes a call with these arguments takes: 2 where an example is guided, 1 elsewhere."""
        assert cond is not None
        return 1 + self._weight(y, cond).any(-1).long()

    def _weight(self, y: Tensor, cond: Condition) -> Tensor:
        """(B, L) float64: w_i r(p)."""
        free = cond[_FREE]
        visible = (free & (y >= 0)).sum(-1).double() / free.sum(-1).clamp(min=1)
        return cond[_SCALE] * self.guidance.share(visible)[:, None]


def _guided(with_condition: Tensor, without: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """Logits (M, K) of which the rows (R,) are guided by weight (R, 1), away from without (R, K)."""
    weight, conditional = weight.to(without), with_condition[rows]
    never = torch.where(weight == -1, without, -math.inf)  # scale -1 is the unconditional distribution
    guided = torch.where(conditional.isneginf(), never, conditional + weight * (conditional - without))
    return with_condition.index_copy(0, rows, guided)


def guide(
    denoiser: Denoiser, canvas: Canvas, rank: Tensor, cond: Condition | None, guidance: float | Guidance | None
) -> tuple[Denoiser, Condition | None]:
    """The denoiser and condition of a guided run of rank (B, N); both as they are where nothing is guided."""
    if not Guidance.of(guidance):
        return denoiser, cond
    guided = Guided(denoiser, Guidance.of(guidance))
    return guided, guided.condition(canvas, rank, cond)
