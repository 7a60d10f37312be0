"""A trained model with other digits: the same function wherever tokens are whole, masked or unmasked.

Let t(x) be the old model's embedding of an unmasked token and h that of a masked one, before modality and position, and
m_j(v) the mean of t over the codes whose new digit j is v. The new tables are

    E_j[masked] = h / S,    E_j[v] = m_j(v) - (1 - 1/S) h,    W[x] = t(x) - Σ_j E_j[digit j of x]

so a masked token is h, an unmasked one t(x), and one of which a single digit is visible the mean of what it may be. For
concatenated digits M = I, and level j takes its own D/S channels of h and m_j(v): of a partly masked token the channels
of its visible digits are those of that mean, the others those of h.

Trunk and heads are taken over as they are: head rows lie in code order, whatever the digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import cast

import torch
from torch import Tensor, nn

from mmprime.engine import MASK_ID

from .config import DiTConfig
from .dit import PrimeDiT
from .embedding import TokenEmbedding

_DIGITAL = ("digits.weight", "tokens.weight", "mix.weight")  # of an embedding: what depends on the digits
_FREE = {"preset", "dropout", "digit_embedding", "token_embedding", *DiTConfig.RUN_SWITCHES}  # options that may differ
_HEADS = {"head", "span_heads"}  # are compared by what they come to


@torch.no_grad()
def transplant(model: PrimeDiT, source: PrimeDiT) -> None:
    """Give `model` the weights of `source`, whose codecs may differ, by the rule above.

    Without whole-token embeddings in `model` unmasked tokens are only approximated, by W = 0. Equal codecs and
    embeddings are copied. Raises ValueError on other spans, code-book sizes or options of the trunk, quoting both.
    """
    _check(model, source)
    state, mine = source.state_dict(), model.state_dict()
    digital = {f"embedders.{span.name}.{part}" for span in model.canvas.spans for part in _DIGITAL}
    digital -= _equal(model, source)
    for name in mine.keys() - digital:
        mine[name].copy_(state[name])
    for span in model.canvas.spans:
        if f"embedders.{span.name}.digits.weight" in digital:
            if not (span.codec.has_table and source.canvas.span(span.name).codec.has_table):
                raise ValueError(f"span {span.name!r}: product codes are taken over as they are, with the same digits")
            old = source.canvas.span(span.name).codec
            embed = _embedding(source, span.name).content
            unmasked, masked = embed(old.digits), embed(torch.full_like(old.digits[:1], MASK_ID))
            _fill(_embedding(model, span.name), span.codec.digits, unmasked, masked[0])


def check_codes(theirs: Mapping[str, int], ours: Mapping[str, int]) -> None:
    """Raises ValueError, with the way out, unless the codes of each span are as many as those to start from."""
    if theirs == ours:
        return
    what = f"the model to start from has codes {dict(theirs)}, this one {dict(ours)}"
    if new := sorted(ours.keys() - theirs.keys()):
        raise ValueError(f"{what}: a new span ({new[0]}) is learned from the start; leave out init")
    if absent := sorted(theirs.keys() - ours.keys()):
        raise ValueError(f"{what}: give data with the span {absent[0]}, or leave out init")
    name = next(name for name in ours if ours[name] != theirs[name])
    raise ValueError(f"{what}: encode the data with the {name} tokenizer it was trained with, or leave out init")


def _check(model: PrimeDiT, source: PrimeDiT) -> None:
    """Raises ValueError unless both have the same code books and the same trunk."""
    theirs, ours = ({span.name: span.codec.num_codes for span in each.canvas.spans} for each in (source, model))
    check_codes(theirs, ours)
    for span, kind in model.kinds.items():
        if kind.name != (old := source.kinds[span].name):
            raise ValueError(
                f"the model to start from has a {old} head for {span}, this one {kind.name}: "
                f"set model.span_heads.{span}={old}"
            )
    for name in sorted({field.name for field in fields(DiTConfig)} - _FREE - _HEADS):
        old, new = getattr(source.config, name), getattr(model.config, name)
        if old != new:
            way = "give data of as many classes" if name == "num_classes" else f"set model.{name}={old}"
            raise ValueError(f"the model to start from has {name}={old}, this one {name}={new}: {way}")


def _equal(model: PrimeDiT, source: PrimeDiT) -> set[str]:
    """Names of the digit-dependent weights of spans that are embedded alike in both models."""
    if model.config.digit_embedding != source.config.digit_embedding:
        return set()
    ours, theirs = model.state_dict(), source.state_dict()
    names: set[str] = set()
    for span in model.canvas.spans:
        parts = {f"embedders.{span.name}.{part}" for part in _DIGITAL}
        if span.codec == source.canvas.span(span.name).codec and parts & ours.keys() == parts & theirs.keys():
            names |= parts
    return names


def _embedding(model: PrimeDiT, span: str) -> TokenEmbedding:
    return cast(TokenEmbedding, model.embedders[span])


def _fill(embedding: TokenEmbedding, digits: Tensor, unmasked: Tensor, masked: Tensor) -> None:
    """The new tables for a codec's `digits` (C, S), from t: unmasked (C, D) and h: masked (D,)."""
    levels = digits.shape[1]
    if embedding.mix is not None:
        nn.init.eye_(embedding.mix.weight)
    if embedding.tokens is not None:
        embedding.tokens.weight.zero_()
    for j, (rows, base) in enumerate(zip(_tables(embedding), embedding.radix.tolist())):
        count = torch.bincount(digits[:, j], minlength=base).clamp(min=1)[:, None]
        mean = unmasked.new_zeros(base, unmasked.shape[1]).index_add_(0, digits[:, j], unmasked) / count
        if embedding.mix is None:
            rows[:base], rows[base] = mean - (1 - 1 / levels) * masked, masked / levels
        else:
            channels = slice(j * rows.shape[1], (j + 1) * rows.shape[1])
            rows[:base], rows[base] = mean[:, channels], masked[channels]
    if embedding.tokens is not None:
        embedding.tokens.weight[:-1] = unmasked - embedding.content(digits)


def _tables(embedding: TokenEmbedding) -> tuple[Tensor, ...]:
    """The rows of each digit level, "masked" last."""
    return embedding.digits.weight.split((embedding.radix + 1).tolist())
