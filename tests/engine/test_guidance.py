"""Classifier-free guidance: a guided denoiser is a denoiser."""

from __future__ import annotations

from collections.abc import Mapping

import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import Guided, Plan, Schedule, Span, sample

WORLD = oracle.mixed_world()
CANVAS, WRONG = WORLD.canvas, oracle.wrong(WORLD)
TEXT = CANVAS.mask("text")
START = torch.where(TEXT, WORLD.y[22], -1)
NULL = 2


class ByLabel(oracle.TableDenoiser):
    """One table for each label; `NULL` is the label that means none."""

    def __init__(self) -> None:
        super().__init__(CANVAS, torch.stack([oracle.random_table(CANVAS, seed).table.detach() for seed in range(3)]))

    def forward(self, y: Tensor, canvas: object, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        assert cond is not None
        self.forwarded += len(y)
        return self.table[cond["label"], oracle.state_number(y, self.radix)]

    def null_condition(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"label": torch.full_like(cond["label"], NULL)}


def guided_logits(guided: Guided, y: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Logits of the image token from the guided denoiser."""
    hidden = guided(y, CANVAS, cond)
    return guided.logits(hidden[:, CANVAS.token_slice("image")][:, 0], CANVAS.span("image")).detach()


def row(model: oracle.TableDenoiser, y: Tensor) -> Tensor:
    return model.table.detach()[oracle.state_number(y, model.radix), 2, :5]


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("ramp", ["constant", "linear"])
def test_logits_by_hand_when_a_span_is_given(scale: float, ramp: str) -> None:
    """ℓ_u + (1 + w r)(ℓ_c - ℓ_u): ℓ_u sees the image only; r = 0, 1/2, 1 as its digits appear."""
    given = TEXT.expand(3, -1)
    y = torch.stack([START, START.clone(), WORLD.y[22]])
    y[1, 4] = WORLD.y[22, 4]
    guided = Guided(WRONG, scale, ramp)
    cond = guided.condition(CANVAS, (~given).long(), None)
    with_text, without = row(WRONG, y), row(WRONG, torch.where(TEXT, -1, y))
    share = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64) if ramp == "linear" else 1.0
    expected = without + (1 + scale * share) * (with_text - without)
    assert torch.allclose(guided_logits(guided, y, cond), expected, atol=1e-12)


def test_logits_by_hand_with_a_label() -> None:
    model, label, y = ByLabel(), torch.tensor([0, 1, 1]), WORLD.y[:3].clone()
    y[:, 4:] = -1
    guided = Guided(model, 1.5, "constant")
    cond = guided.condition(CANVAS, torch.ones(3, 6, dtype=torch.int64), {"label": label})
    number = oracle.state_number(y, model.radix)
    table = model.table.detach()[:, number, 2, :5]
    expected = table[NULL] + 2.5 * (table[label, torch.arange(3)] - table[NULL])
    assert torch.allclose(guided_logits(guided, y, cond), expected, atol=1e-12)


def test_only_spans_given_whole_are_dropped_example_by_example() -> None:
    given = torch.stack([TEXT, TEXT & (torch.arange(6) > 0), ~TEXT])
    drop = Guided(WRONG, 1.0).condition(CANVAS, (~given).long(), None)["guidance_drop"]
    assert torch.equal(drop, torch.stack([TEXT, torch.zeros(6, dtype=torch.bool), ~TEXT]))


def test_the_ramp_counts_neither_given_nor_absent_digits() -> None:
    rank = torch.tensor([[0, 0, 0, 0, 1, -1]])  # the text is given, one digit of the image never comes
    guided = Guided(WRONG, 3.0, "linear")
    y = torch.where(rank >= 0, WORLD.y[22:23], -1)
    cond = guided.condition(CANVAS, rank, None)
    with_text, without = row(WRONG, y), row(WRONG, torch.where(TEXT, -1, y))
    assert torch.allclose(guided_logits(guided, y, cond), without + 4.0 * (with_text - without), atol=1e-12)


def test_scale_zero_is_unguided_and_free() -> None:
    plan = Plan.first_hitting(CANVAS, 40, 1, given=TEXT)
    start = START.expand(40, -1)
    plain = sample(WRONG, CANVAS, plan, start, generator=2)
    zero = sample(WRONG, CANVAS, plan, start, guidance=0.0, generator=2)
    assert torch.equal(plain.y, zero.y)
    assert torch.equal(plain.nfe, zero.nfe)
    almost = sample(WRONG, CANVAS, plan, start, guidance=1e-12, generator=2)
    assert torch.equal(plain.y, almost.y)


def test_nfe_counts_both_branches() -> None:
    plan = Plan.ancestral(CANVAS, Schedule.linear(), 30, 16, 3, given=TEXT)
    model = oracle.wrong(WORLD)
    record = sample(model, CANVAS, plan, START.expand(16, -1), guidance=2.0, generator=4)
    assert torch.equal(record.nfe, 2 * plan.steps_used.sum(-1))
    assert model.forwarded == int(record.nfe.sum())


@pytest.mark.parametrize("ramp", ["constant", "linear"])
def test_guided_samples_have_the_law_of_the_guided_logits(ramp: str) -> None:
    """Carry-over comes after guidance: the two digits of the image drawn one after the other."""
    batch, scale = 6000, 1.5
    plan = Plan.ordered(CANVAS, batch, 5, by="raster", given=TEXT)
    record = sample(WRONG, CANVAS, plan, START.expand(batch, -1), guidance=scale, generator=6, ramp=ramp)
    digits, law = CANVAS.span("image").codec.digits, torch.ones(5, dtype=torch.float64)
    for step, weight in ((0, 0.0 if ramp == "linear" else 1.0), (1, 0.5 if ramp == "linear" else 1.0)):
        for code in range(5):
            y = START.clone()
            y[4 : 4 + step] = digits[code, :step]
            with_text, without = row(WRONG, y[None])[0], row(WRONG, torch.where(TEXT, -1, y)[None])[0]
            logits = without + (1 + scale * weight) * (with_text - without)
            possible = (digits[:, :step] == digits[code, :step]).all(-1)
            p = logits.masked_fill(~possible, -torch.inf).softmax(0)
            law[code] *= p[(digits[:, : step + 1] == digits[code, : step + 1]).all(-1)].sum()
    codes = CANVAS.span("image").codec.decode(CANVAS.view(record.y, "image"))[:, 0]
    oracle.assert_law(oracle.counts_of(codes, 5), law)


def test_guided_streams_do_not_depend_on_the_batch() -> None:
    plan = Plan.first_hitting(CANVAS, 6, 7)
    label = {"label": torch.tensor([0, 1, 0, 1, 1, 0])}
    whole = sample(ByLabel(), CANVAS, plan, guidance=2.0, generator=8, cond=label).y
    part = sample(
        ByLabel(), CANVAS, Plan(plan.rank[:2], 6), guidance=2.0, generator=8, cond={"label": label["label"][:2]}
    )
    assert torch.equal(part.y, whole[:2])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="'exponential'"):
        Guided(WRONG, 1.0, "exponential")
    for scale in (-2.0, float("nan")):
        with pytest.raises(ValueError, match=str(scale)):
            Guided(WRONG, scale)
    with pytest.raises(ValueError, match="nothing to guide by"):
        sample(WRONG, CANVAS, Plan.first_hitting(CANVAS, 2, 0), guidance=1.0)


def test_the_wrapped_denoiser_keeps_the_protocol() -> None:
    guided = Guided(WRONG, 1.0)
    cond = guided.condition(CANVAS, (~TEXT).long().expand(2, -1), None)
    hidden = guided(START.expand(2, -1), CANVAS, cond)
    assert hidden.shape[:2] == (2, CANVAS.num_tokens)
    span: Span = CANVAS.span("text")
    assert guided.logits(hidden[:, 0], span).shape == (2, span.codec.num_codes)
