"""A trained model with other digits: the same function wherever tokens are whole, hidden or shown.

Let t(x) be the old model's embedding of a shown token and h that of a hidden one, before modality and position, and
m_j(v) the mean of t over the codes whose new digit j is v. The new tables are

    E_j[hidden] = h / S,    E_j[v] = m_j(v) - (1 - 1/S) h,    W[x] = t(x) - Σ_j E_j[digit j of x]

so a hidden token is h, a shown one t(x), and one of which a single digit shows the mean of what it may be. For
concatenated digits M = I, and place j takes its own D/S channels of h and m_j(v): of a partly shown token the
channels of its shown digits are those of that mean, the others those of h.

Trunk and heads are taken over as they are: head rows lie in code order, whatever the digits.
"""

from __future__ import annotations

from dataclasses import fields
from typing import cast

import torch
from torch import Tensor, nn

from mmprime.engine import MASK_ID

from .config import DiTConfig
from .dit import PrimeDiT
from .embedding import TokenEmbedder

_DIGITAL = ("digits.weight", "tokens.weight", "mix.weight")  # of an embedder: what depends on the digits
_FREE = {"preset", "dropout", "digit_embedding", "token_embedding", *DiTConfig.RUN_SWITCHES}  # options that may differ


@torch.no_grad()
def retrofit(model: PrimeDiT, source: PrimeDiT) -> None:
    """Give `model` the weights of `source`, whose codecs may differ, by the rule above.

    Without whole-token embeddings in `model` shown tokens are only approximated, by W = 0. Equal codecs and embeddings
    are copied. Raises ValueError on other spans, code-book sizes or options of the trunk, quoting both.
    """
    _check(model, source)
    state, mine = source.state_dict(), model.state_dict()
    digital = {f"embedders.{span.name}.{part}" for span in model.canvas.spans for part in _DIGITAL}
    digital -= _equal(model, source)
    for name in mine.keys() - digital:
        mine[name].copy_(state[name])
    for span in model.canvas.spans:
        if f"embedders.{span.name}.digits.weight" in digital:
            old = source.canvas.span(span.name).codec
            embed = _embedder(source, span.name).content
            shown, hidden = embed(old.digits), embed(torch.full_like(old.digits[:1], MASK_ID))
            _fill(_embedder(model, span.name), span.codec.digits, shown, hidden[0])


def _check(model: PrimeDiT, source: PrimeDiT) -> None:
    """Raises ValueError unless both have the same code books and the same trunk."""
    theirs, ours = ({span.name: span.codec.num_codes for span in each.canvas.spans} for each in (source, model))
    if theirs != ours:
        raise ValueError(f"the model to start from has codes {theirs}, this one {ours}")
    for name in sorted({field.name for field in fields(DiTConfig)} - _FREE):
        old, new = getattr(source.config, name), getattr(model.config, name)
        if old != new:
            raise ValueError(f"the model to start from has {name}={old}, this one {name}={new}")


def _equal(model: PrimeDiT, source: PrimeDiT) -> set[str]:
    """Names of the digit-dependent weights of spans that are embedded alike in both models."""
    if model.config.digit_embedding != source.config.digit_embedding:
        return set()
    ours, theirs = model.state_dict(), source.state_dict()
    names: set[str] = set()
    for span in model.canvas.spans:
        own = {f"embedders.{span.name}.{part}" for part in _DIGITAL}
        if span.codec == source.canvas.span(span.name).codec and own & ours.keys() == own & theirs.keys():
            names |= own
    return names


def _embedder(model: PrimeDiT, span: str) -> TokenEmbedder:
    return cast(TokenEmbedder, model.embedders[span])


def _fill(embedder: TokenEmbedder, digits: Tensor, shown: Tensor, hidden: Tensor) -> None:
    """The new tables for a codec's `digits` (C, S), from t: shown (C, D) and h: hidden (D,)."""
    places = digits.shape[1]
    if embedder.mix is not None:
        nn.init.eye_(embedder.mix.weight)
    if embedder.tokens is not None:
        embedder.tokens.weight.zero_()
    for j, (rows, base) in enumerate(zip(_tables(embedder), embedder.radix.tolist())):
        count = torch.bincount(digits[:, j], minlength=base).clamp(min=1)[:, None]
        mean = shown.new_zeros(base, shown.shape[1]).index_add_(0, digits[:, j], shown) / count
        if embedder.mix is None:
            rows[:base], rows[base] = mean - (1 - 1 / places) * hidden, hidden / places
        else:
            own = slice(j * rows.shape[1], (j + 1) * rows.shape[1])
            rows[:base], rows[base] = mean[:, own], hidden[own]
    if embedder.tokens is not None:
        embedder.tokens.weight[:-1] = shown - embedder.content(digits)


def _tables(embedder: TokenEmbedder) -> tuple[Tensor, ...]:
    """The rows of each digit place, "hidden" last."""
    return embedder.digits.weight.split((embedder.radix + 1).tolist())
