"""What the engine asks of a network, and the lazy head.

A denoiser maps what is visible to hidden states, one for each token; its head turns the hidden states of *chosen*
tokens into a distribution over their codes. Only tokens with something to reveal ever reach the head, in chunks, so
memory does not grow with L·C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .canvas import Canvas, Span
from .heads import DigitQuery, Head, SoftmaxHead, Tokens
from .rows import Condition

_CHUNK_ELEMENTS = 1 << 25
DRAWN_AT_ONCE = 1 << 21  # numbers; what a draw makes of them stays in the cache of a CPU


_SOFTMAX = SoftmaxHead()


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

    def code_logits(self, hidden: Tensor, span: Span, codes: Tensor) -> Tensor:
        """Hidden states (M, D) -> logits (M, K) of the codes (M, K) asked for; all are computed unless overridden."""
        return self.logits(hidden, span).gather(1, codes)

    def code_nats(self, hidden: Tensor, span: Span, code: Tensor) -> Tensor | None:
        """Hidden states (M, D) -> -log softmax (M,) of the logits at one code (M,) of each; None: by the logits."""
        return None

    def head(self, span: Span) -> Head:
        """The head of a span: one softmax over its codes unless overridden."""
        return _SOFTMAX

    def digit_logits(self, hidden: Tensor, span: Span, query: DigitQuery) -> Tensor:
        """Hidden states (M, D) -> logits (R, max b) of the R digits asked for, -inf from a level's radix on; what the
        heads "factored" and "chain" ask of a network in place of `logits`."""
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


class Wrapper(BaseDenoiser):
    """A denoiser around a denoiser, to which it leaves all that it does not write anew."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = completed(denoiser)

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        return self.denoiser(y, canvas, cond)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return self.denoiser.logits(hidden, span)

    def code_logits(self, hidden: Tensor, span: Span, codes: Tensor) -> Tensor:
        """Those of the inner denoiser; chosen of `logits` where these are written anew."""
        if type(self).logits is not Wrapper.logits:
            return super().code_logits(hidden, span, codes)
        return self.denoiser.code_logits(hidden, span, codes)

    def head(self, span: Span) -> Head:
        """That of the inner denoiser."""
        return self.denoiser.head(span)

    def digit_logits(self, hidden: Tensor, span: Span, query: DigitQuery) -> Tensor:
        return self.denoiser.digit_logits(hidden, span, query)

    def passes(self, y: Tensor, cond: Condition | None) -> Tensor:
        """(B,) forward passes of the inner denoiser."""
        return self.denoiser.passes(y, cond)

    def null_condition(self, cond: Condition) -> Condition:
        """That of the inner denoiser."""
        return self.denoiser.null_condition(cond)


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
    for name in ("hidden_at", "passes", "null_condition", "head", "digit_logits", "code_logits", "code_nats"):
        if hasattr(kind, name):
            raise ValueError(f"{kind.__name__} has {name} but is no BaseDenoiser; inherit mmprime.engine.BaseDenoiser")
    return _Completed(denoiser)


def digits_apart(denoiser: Denoiser, canvas: Canvas) -> bool:
    """Whether the digits of every token are independent given the state: -log p of a set is the sum over its digits."""
    network = completed(denoiser)
    return all(network.head(span).apart or span.codec.num_digits == 1 for span in canvas.spans)


def chunks(count: int, size: int, numbers: int | None = None) -> Iterator[slice]:
    """Slices over `count` tokens of `size` numbers each that have at most `numbers` of them (2^25) in one slice."""
    step = max(1, (numbers or _CHUNK_ELEMENTS) // size)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def reveal_nats(
    denoiser: Denoiser,
    canvas: Canvas,
    before: Tensor,
    after: Tensor,
    cond: Condition | None = None,
    known: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """-log p(after | before) of each token, in nats, tokens independent given `before`, digits of a token by its head.

    before (B, N); after (A, B, N): A states that extend `before`. known (B, N) bool: revealed digits on which others of
    their token may depend, where the head lets them; None for all. hidden (B, L, D): the denoiser's answer to `before`,
    None to call it. Returns (A, B, L), 0 where a token reveals nothing, +inf where the denoiser rules `after` out (or
    `before` already). Raises NonFiniteLogits.
    """
    canvas.check(before)
    network = completed(denoiser)
    hidden = network(before, canvas, cond) if hidden is None else hidden
    nats: list[Tensor] = []
    for span in canvas.spans:
        visible, aim = canvas.view(before, span.name), canvas.view(after, span.name)
        depends = None if known is None else canvas.view(known, span.name)
        batch, token = (aim != visible).any(-1).any(0).nonzero(as_tuple=True)
        rows = hidden.flatten(0, 1).index_select(
            0, batch * hidden.shape[1] + canvas.token_slice(span.name).start + token
        )
        parts, head = [], network.head(span)
        kept = len(rows) * head.size(span) < head.kept
        for part in chunks(len(rows), head.size(span)):
            b, i = batch[part], token[part]
            tokens = Tokens(span, rows[part], visible[b, i], i)
            allowed = None if depends is None else depends[b, i].expand(len(aim), -1, -1)
            parts.append(_stored(partial(_chunk_nats, network, tokens, aim[:, b, i], allowed), tokens.hidden, kept))
        empty = torch.zeros(len(after), *visible.shape[:2], device=before.device)
        if parts:
            values = torch.cat(parts, 1)
            empty = empty.to(values.dtype).index_put((_all(len(after), len(rows), before), batch, token), values)
        nats.append(empty)
    return torch.cat(nats, -1)


def visible_nats(denoiser: Denoiser, canvas: Canvas, y: Tensor, true: Tensor, asked: Tensor, hidden: Tensor) -> Tensor:
    """-log p of the true value (B, N) of each visible digit `asked` (B, N) at the state y (B, N), summed to (B,) nats.

    hidden (B, L, D): what the denoiser says of y. A digit is predicted by `Head.as_if_masked`. Raises NonFiniteLogits.
    """
    network, total = completed(denoiser), hidden.new_zeros(len(y), dtype=torch.float32)
    for span in canvas.spans:
        digits, aim, wanted = (canvas.view(each, span.name) for each in (y, true, asked))
        batch, token = wanted.any(-1).nonzero(as_tuple=True)
        head = network.head(span)
        kept = len(batch) * head.size(span) < head.kept
        for part in chunks(len(batch), head.size(span)):
            b, i = batch[part], token[part]
            tokens = Tokens(span, hidden[b, canvas.token_slice(span.name).start + i], digits[b, i], i)
            nats = _stored(partial(_chunk_visible, network, tokens, aim[b, i], wanted[b, i]), tokens.hidden, kept)
            total = total.index_add(0, b, nats.to(total.dtype))
    return total


def _chunk_visible(network: BaseDenoiser, tokens: Tokens, true: Tensor, asked: Tensor, hidden: Tensor) -> Tensor:
    """(m,) nats of one chunk of tokens of these hidden states."""
    log_p = network.head(tokens.span).as_if_masked(network, replace(tokens, hidden=hidden), asked)
    nats = -log_p.gather(1, true[asked][:, None])[:, 0]
    return nats.new_zeros(len(tokens)).index_add(0, asked.nonzero()[:, 0], nats)


def _all(states: int, rows: int, like: Tensor) -> Tensor:
    return torch.arange(states, device=like.device)[:, None].expand(states, rows)


def _chunk_nats(network: BaseDenoiser, tokens: Tokens, aim: Tensor, known: Tensor | None, hidden: Tensor) -> Tensor:
    """(A, m) nats of one chunk of tokens of these hidden states."""
    return network.head(tokens.span).nats(network, replace(tokens, hidden=hidden), aim, known)


def _stored(compute: Callable[[Tensor], Tensor], hidden: Tensor, kept: bool) -> Tensor:
    """What is computed from hidden states; with gradients on anew in the backward pass, unless it is kept."""
    if kept or not torch.is_grad_enabled():
        return compute(hidden)
    return checkpoint(compute, hidden, use_reentrant=False)
