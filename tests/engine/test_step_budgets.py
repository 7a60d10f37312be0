"""Budgets of steps by level, and bounds of planned samplers by their own plans, against plans written out."""

from __future__ import annotations

import itertools

import digit_oracle
import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import (
    MASKINGS,
    Canvas,
    ChainHead,
    Codec,
    FactoredHead,
    Head,
    Plan,
    Rows,
    Schedule,
    Span,
    exact_nelbo,
    generator_of,
    masking_of,
    planned_nelbo,
    sample,
    sampler_of,
)
from mmprime.engine.samplers import Ancestral, CoarseFirst, Start, sampler_words

TRIO = digit_oracle.product_world(3, (2, 2))  # three tokens of two bits
FOUR = Canvas([Span("text", 5, Codec.base(7, 1)), Span("image", 6, Codec.product((2, 3, 2, 2)))])


def plan_of(sampler: CoarseFirst, canvas: Canvas, batch: int = 3, given: Tensor | None = None) -> Plan:
    masks = canvas.full_mask(given, batch), canvas.full_mask(None, batch)
    return sampler.plan(Start(canvas, *masks, [generator_of(b) for b in range(batch)]))


def test_groups_of_levels_share_the_steps() -> None:
    """Levels 0 and 1 of four in the first seven steps of eight (5 + 6 + 6 digits), 2 and 3 in the last."""
    rank = plan_of(CoarseFirst(8, budget="7,1"), FOUR).rank
    coarse, fine = rank[:, FOUR.digit_of < 2], rank[:, FOUR.digit_of >= 2]
    assert bool((fine == 8).all())
    assert [row.bincount(minlength=8).tolist() for row in coarse] == [[0, 2, 2, 3, 2, 3, 2, 3]] * 3
    assert bool((rank[:, FOUR.digit_of == 0].amax(-1) <= rank[:, FOUR.digit_of == 1].amin(-1)).all())
    assert len(rank.unique(dim=0)) == 3
    three = plan_of(CoarseFirst(16, budget="5,2,1"), FOUR).rank  # levels 0 and 1, 2, 3
    for level, (first, last) in enumerate([(1, 10), (1, 10), (11, 14), (15, 16)]):
        at_level = three[:, FOUR.digit_of == level]
        assert first <= int(at_level.min())
        assert int(at_level.max()) <= last
    given = FOUR.mask(digits=[0])
    assert plan_of(CoarseFirst(8, budget="7,1"), FOUR, 2, given).rank[:, given].tolist() == [[0] * 11] * 2
    paced = plan_of(CoarseFirst(4, pace=Schedule.cosine(), budget="3,1"), FOUR).rank[0, FOUR.digit_of < 2]
    assert paced.bincount().tolist() == [0, 2, 6, 9]  # 17 (1 - cos(π k / 6)) = 2.3, 8.5, 17


def test_the_digits_of_a_token_come_at_once_inside_a_group() -> None:
    """Two groups of two levels in six steps and two; a digit of the text alone, in the first group."""
    rank = plan_of(CoarseFirst(8, budget="6,2", unit="token"), FOUR).rank
    image = rank[:, FOUR.mask("image")].view(3, 6, 4)
    assert torch.equal(image[..., 0], image[..., 1])
    assert torch.equal(image[..., 2], image[..., 3])
    coarse, fine = torch.cat([rank[:, :5], image[..., 0]], 1), image[..., 2]
    assert [sorted(row.tolist()) for row in coarse] == [sorted([1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6])] * 3
    assert [sorted(row.tolist()) for row in fine] == [[7] * 3 + [8] * 3] * 3
    assert len(coarse.unique(dim=0)) == 3
    given = FOUR.mask("image", digits=[0]) | FOUR.mask("image", digits=[2])
    rank = plan_of(CoarseFirst(4, budget="2,2", unit="token"), FOUR, 2, given).rank
    assert bool((rank[:, given] == 0).all())
    assert rank[:, FOUR.mask("image", digits=[3])].unique().tolist() == [3, 4]
    plain = plan_of(CoarseFirst(99, unit="token"), FOUR).rank  # one unit a step, level after level
    assert bool((plain[:, FOUR.digit_of == 0].amax(-1) < plain[:, FOUR.digit_of == 1].amin(-1)).all())
    assert sampler_words(CoarseFirst(8, budget="6,2", unit="token")) == "coarse_first budget=6,2 unit=token"
    with pytest.raises(ValueError, match="unknown unit 'tokens'; there are digit, token"):
        CoarseFirst(8, unit="tokens")


def test_a_budget_in_words() -> None:
    sampler = sampler_of("coarse_first", {"budget": "7,1"}, steps=8)
    assert sampler == CoarseFirst(8, budget="7,1")
    assert sampler_words(sampler) == "coarse_first budget=7,1"
    assert torch.equal(plan_of(CoarseFirst(8, budget="3.5,0.5"), FOUR).rank, plan_of(sampler, FOUR).rank)


@pytest.mark.parametrize("word", ["7,0", "7,-1", "7,x", "7,", "nan,1", "inf,1"])
def test_shares_are_positive_numbers(word: str) -> None:
    with pytest.raises(ValueError, match=f"budget={word}: shares of the steps"):
        CoarseFirst(8, budget=word)


def test_a_budget_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget=7,1 divides 12 steps into 10.5, 1.5; take steps"):
        plan_of(CoarseFirst(12, budget="7,1"), FOUR)
    with pytest.raises(ValueError, match=r"budget=1,1,1,1,1 has 5 shares, and tokens have 4 digit levels"):
        plan_of(CoarseFirst(5, budget="1,1,1,1,1"), FOUR)


def plans_written_out() -> list[list[int]]:
    """Ranks of three tokens of two digits, budget 2,1 in three steps: one coarse digit, two, all fine ones."""
    plans = []
    for first in range(3):
        rank = [2, 3] * 3
        rank[2 * first] = 1
        plans.append(rank)
    return plans


@pytest.mark.parametrize("head", [FactoredHead(), ChainHead()], ids=lambda head: head.name)
def test_the_bound_of_a_budget_is_that_of_its_plans(head: Head) -> None:
    """Enumerated, estimated, and as the distribution of samples, with conditionals of no joint distribution."""
    model, canvas = digit_oracle.DigitTable(TRIO.canvas, head), TRIO.canvas
    log_p = torch.stack(
        [sum(digit_oracle.log_reveal(model, canvas, TRIO.y, *step) for step in oracle.steps_of(rank))  # type: ignore[misc]
         for rank in plans_written_out()]
    )  # fmt: skip
    sampler = CoarseFirst(3, budget="2,1")
    for row in (0, 11, 63):
        rows = TRIO.y[row : row + 1].expand(3000, -1)
        found = planned_nelbo(model, canvas, rows, sampler, generator=generator_of(row))
        oracle.assert_mean(found.double(), -float(log_p[:, row].mean()))
        twice = planned_nelbo(model, canvas, rows, sampler, samples=3, generator=generator_of(row))
        oracle.assert_mean(twice.double(), -float(log_p[:, row].mean()))
        assert float(twice.var()) < float(found.var())
    assert float((plan_of(sampler, canvas, 3000).rank == 1).double().sum(0).std()) > 0
    y = sample(model, canvas, sampler, batch=8000, generator=4).y
    oracle.assert_distribution(oracle.counts_of(TRIO.index(y), 64), log_p.exp().mean(0))
    whole = planned_nelbo(model, canvas, TRIO.y.repeat(60, 1), CoarseFirst(3), generator=generator_of(1))
    apart = [set(plan_of(CoarseFirst(3), canvas, 9).rank[:, n].tolist()) for n in (0, 1)]
    assert apart[0] == {1, 2}  # without a budget two digits a step
    assert apart[1] == {2, 3}
    assert bool(whole.isfinite().all())


@pytest.mark.parametrize("masking", MASKINGS)
def test_the_bound_of_the_ancestral_sampler_is_the_T_step_bound(masking: str) -> None:
    world = oracle.mixed_world()
    model = oracle.wrong(world)
    given = torch.tensor([False, True, False, False, False, False])
    for row, mask in itertools.product((3, 30), (None, given)):
        exact = float(exact_nelbo(model, world.canvas, world.y[row : row + 1], 2, masking, mask).bound.detach())
        rows = world.y[row : row + 1].expand(6000, -1)
        sampler = Ancestral(2, masking=masking_of(masking))
        found = planned_nelbo(model, world.canvas, rows, sampler, mask, generator=generator_of(5))
        oracle.assert_mean(found.double(), exact)


def test_what_is_absent_is_not_scored() -> None:
    world = oracle.mixed_world()
    absent = world.canvas.mask("image")
    rows = Rows.of(world.canvas, world.y[:9], absent=absent)
    found = planned_nelbo(oracle.wrong(world), world.canvas, rows, CoarseFirst(4), generator=generator_of(2))
    assert found.shape == (9,)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        planned_nelbo(oracle.wrong(world), world.canvas, rows, CoarseFirst(4), samples=0)
