"""What the engine asks of a network, and the lazy head.

A denoiser maps what is visible to hidden states, one for each token; its head turns the hidden states of *chosen*
tokens into logits over the codes. Only tokens with something to reveal ever reach the head, in chunks, so memory
does not grow with L·C.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .canvas import Canvas, Span
from .heads.softmax import log_mass, log_posterior
from .rows import Condition


class NonFiniteLogits(ValueError):
    """A token's logits are no distribution: NaN, +inf, or -inf for every code. The message names span and token."""


_CHUNK_ELEMENTS = 1 << 25
DRAWN_AT_ONCE = 1 << 21  # cells; what a draw makes of them stays in the cache of a CPU


class Denoiser(Protocol):
    """Visible state y (B, N) with `MASK_ID` where masked -> hidden states (B, L, D); logits (M, C) in code order."""

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor: ...

    def logits(self, hidden: Tensor, span: Span) -> Tensor: ...


class BaseDenoiser:
    """The two methods to write, and what may be written anew: inherit it to do so."""

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        raise NotImplementedError

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        raise NotImplementedError

    def hidden_at(self, y: Tensor, canvas: Canvas, cond: Condition | None, wanted: Tensor) -> Tensor:
        """(B, L, D), of which only the tokens `wanted` (B, L) will be read: what the others need may be left out."""
        return self(y, canvas, cond)

    def passes(self, y: Tensor, cond: Condition | None) -> Tensor:
        """(B,) int64: passes of the network that a call with these arguments takes for each example."""
        return torch.ones(len(y), dtype=torch.int64, device=y.device)

    def null_condition(self, cond: Condition) -> Condition:
        """`cond` of the unconditional branch of classifier-free guidance. Raises ValueError unless overridden."""
        raise ValueError(f"{type(self).__name__} has no null_condition, so it cannot be guided by {', '.join(cond)}")


class _Completed(BaseDenoiser):
    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.logits = denoiser, denoiser.logits  # type: ignore[method-assign]

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        return self.denoiser(y, canvas, cond)


def completed(denoiser: Denoiser) -> BaseDenoiser:
    """A denoiser of two methods with the defaults of `BaseDenoiser`; a `BaseDenoiser` as it is.

    Raises ValueError where one of the other methods would be passed over because its class does not inherit.
    """
    if isinstance(denoiser, BaseDenoiser):
        return denoiser
    kind = type(denoiser)
    for name in ("hidden_at", "passes", "null_condition"):
        if hasattr(kind, name):
            raise ValueError(f"{kind.__name__} has {name} but is no BaseDenoiser; inherit mmprime.engine.BaseDenoiser")
    return _Completed(denoiser)


def token_grid(denoiser: Denoiser, hidden: Tensor, span: Span, token: Tensor) -> Tensor:
    """Hidden states (M, D) of tokens of a span -> joint logits over their digit grid (M, b_1, ..., b_S), float32.

    token (M,): their numbers in the span. A logit of -inf is a code that is impossible. Raises NonFiniteLogits.
    """
    logits = denoiser.logits(hidden, span)
    if logits.dtype != torch.float64:
        logits = logits.float()
    top = logits.amax(-1)  # NaN if any is
    if not bool(top.isfinite().all()):
        _refuse(logits, top, span, token)
    return span.codec.to_grid(logits)


def _refuse(logits: Tensor, top: Tensor, span: Span, token: Tensor) -> NoReturn:
    row = int((~top.isfinite()).nonzero()[0])
    values = logits[row].detach()
    code = int((values.isnan() | values.isposinf()).long().argmax())
    what = (
        f"the logits of all {len(values)} codes are -inf, so none is possible"
        if bool(top[row].isneginf())
        else f"the logit of code {code} is {float(values[code])}"
    )
    raise NonFiniteLogits(
        f"span {span.name!r}, token {int(token[row])}: {what}; a denoiser gives finite logits, -inf for what cannot be"
    )


def chunks(count: int, span: Span, cells: int = _CHUNK_ELEMENTS) -> Iterator[slice]:
    """Slices over `count` tokens such that the grids of one slice have at most `cells` cells."""
    size = max(1, cells // span.codec.num_cells)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def reveal_nats(
    denoiser: Denoiser, canvas: Canvas, before: Tensor, after: Tensor, cond: Condition | None = None
) -> Tensor:
    """-log p(after | before) of each token, in nats, tokens independent given `before`, digits of a token joint.

    before (B, N); after (A, B, N): A states that extend `before`. Returns (A, B, L), 0 where a token reveals nothing,
    +inf where the denoiser rules `after` out (or `before` already). One call of the denoiser. Raises NonFiniteLogits.
    """
    canvas.check(before)
    hidden = denoiser(before, canvas, cond)
    nats: list[Tensor] = []
    for span in canvas.spans:
        visible, aim = canvas.view(before, span.name), canvas.view(after, span.name)
        batch, token = (aim != visible).any(-1).any(0).nonzero(as_tuple=True)
        rows = hidden.flatten(0, 1).index_select(
            0, batch * hidden.shape[1] + canvas.token_slice(span.name).start + token
        )
        parts = [
            _chunk_nats(
                denoiser, span, rows[part], visible[batch, token][part], aim[:, batch, token][:, part], token[part]
            )
            for part in chunks(len(rows), span)
        ]
        empty = torch.zeros(len(after), *visible.shape[:2], device=before.device)
        if parts:
            values = torch.cat(parts, 1)
            empty = empty.to(values.dtype).index_put((_all(len(after), len(rows), before), batch, token), values)
        nats.append(empty)
    return torch.cat(nats, -1)


def _all(states: int, rows: int, like: Tensor) -> Tensor:
    return torch.arange(states, device=like.device)[:, None].expand(states, rows)


def _chunk_nats(denoiser: Denoiser, span: Span, rows: Tensor, visible: Tensor, aim: Tensor, token: Tensor) -> Tensor:
    """(A, m) nats of one chunk; with gradients on, its grids are recomputed in the backward pass, not stored."""

    def compute(hidden: Tensor) -> Tensor:
        posterior = log_posterior(token_grid(denoiser, hidden, span, token), visible)
        same = (aim == visible).all(-1)  # reveals nothing
        return torch.stack([-log_mass(posterior, target) for target in aim]).masked_fill(same, 0.0)

    if torch.is_grad_enabled() and len(rows) * span.codec.num_cells >= _CHUNK_ELEMENTS // 2:
        return checkpoint(compute, rows, use_reentrant=False)
    return compute(rows)
