"""A plan mixed with a rule: each end of the share is the thing itself, and what is between is counted by hand."""

from __future__ import annotations

from dataclasses import replace

import oracle
import pytest
import torch
from engine_world import line_view, start_of

from mmprime.engine import Canvas, Codec, Span, sample, sampler_of
from mmprime.engine.samplers import Margin, Mixture, Moment

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
PERFECT, WRONG = oracle.perfect(WORLD), oracle.wrong(WORLD)
ORDERS = ("halton", "nested", "first_hitting", "token_synchronous", "raster", "coarse_first")
RULES = ("confidence", "margin", "entropy", "moment")
BATCH = 4000
PARTLY = torch.where(torch.tensor([True, False, False, False, False, False]), WORLD.y[13], -1).expand(40, -1)
ABSENT = torch.tensor([False, False, False, False, False, True])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("plan", ORDERS)
def test_share_one_is_the_plan(plan, steps):
    sampler = sampler_of("mixture", {"share": 1.0, "plan": plan}, steps)
    record = sample(WRONG, CANVAS, sampler, PARTLY, generator=8, absent=ABSENT, plan_generator=7)
    alone = sampler_of(plan, steps=steps).plan(start_of(CANVAS, 40, 7, PARTLY >= 0, ABSENT))
    assert torch.equal(record.rank, alone.rank)


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
@pytest.mark.parametrize(
    ("plan", "unit"), [("halton", "digit"), ("first_hitting", "digit"), ("token_synchronous", "token")]
)
@pytest.mark.parametrize("rule", RULES)
def test_share_zero_is_the_rule(rule, plan, unit, steps):
    sampler = sampler_of("mixture", {"share": 0.0, "plan": plan, "rule": rule}, steps)
    record = sample(WRONG, CANVAS, sampler, PARTLY, generator=8)
    alone = sample(WRONG, CANVAS, sampler_of(rule, {"pace": "linear", "unit": unit}, steps), PARTLY, generator=8)
    for field in ("y", "rank", "nfe"):
        assert torch.equal(getattr(record, field), getattr(alone, field)), field


@pytest.mark.parametrize("plan", ORDERS)
@pytest.mark.parametrize("rule", ["margin", "entropy", Moment(power=1.0)], ids=["margin", "entropy", "moment"])
def test_by_distributions_alone_one_unit_at_a_time_is_exact(rule, plan):
    sampler = sampler_of("mixture", {"share": 0.4, "plan": plan, "rule": rule}, 6)
    record = sample(PERFECT, CANVAS, sampler, batch=BATCH, generator=10, plan_generator=9)
    assert (record.nfe == (3 if plan == "token_synchronous" else 6)).all()
    oracle.assert_distribution(oracle.counts_of(WORLD.index(record.y), len(WORLD.p)), WORLD.p)


def test_the_plan_goes_first_and_the_rule_takes_the_best_of_the_others():
    """Three tokens of two digits, one of them half known: what is revealed is read off the formula."""
    canvas = Canvas([Span("text", 3, Codec.base(4, 2))])
    order = torch.tensor([[2, 5, 1, 4, 0, 3]])  # digits 0 and 1 are token 0's, and so on; 4 is given
    masked = torch.tensor([[True, True, True, True, False, True]])
    sure = [[0.1, 0.8, 0.3]]

    def revealed(share: float, steps: int, step: int = 1, total: int = 5) -> list[int]:
        flat = line_view(sure, step, left=5, total=total, memory={"order": order})
        view = replace(flat, canvas=canvas, masked=masked, visible=~masked)
        return Mixture(steps, share, rule=Margin()).select(view).reveal[0].nonzero()[:, 0].tolist()

    assert revealed(0.0, 2) == [2, 5]  # 2 of 5 units: the next digits of the surest tokens, 1 and 2
    assert revealed(0.5, 2) == [2, 3]  # the plan's first is 2; the surest token is still 1, which has 3 left
    assert revealed(1.0, 2) == [0, 2]
    assert revealed(0.5, 1) == [0, 1, 2, 3, 5]
    assert revealed(0.4, 5) == [2]  # ⌊0.4 · 1⌋ = 0: the rule alone
    sure[0] = [0.1, 0.3, 0.8]
    assert revealed(0.4, 8, 4, 8) == [5]  # the fourth unit of 8: ⌊0.4 · 4⌋ - ⌊0.4 · 3⌋ = 0, the rule
    assert revealed(0.5, 8, 4, 8) == [2]  # ⌊0.5 · 4⌋ - ⌊0.5 · 3⌋ = 1, the plan


def test_every_share_keeps_the_budget_and_what_is_given():
    for share in (0.2, 0.5, 0.8):
        for plan in ORDERS:
            sampler = sampler_of("mixture", {"share": share, "plan": plan}, 3)
            record = sample(WRONG, CANVAS, sampler, PARTLY, generator=8)
            WORLD.index(record.y)
            assert torch.equal(record.y[:, 0], PARTLY[:, 0])
            assert torch.equal(record.nfe, record.rank.amax(-1))
            assert (record.nfe == 3).all()


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        ({"share": 1.5}, 4, r"share must lie in \[0, 1\], got 1.5; 1 is the plan alone, 0 the rule alone"),
        ({"share": "-0.1"}, 4, "got -0.1"),
        ({"share": "nan"}, 4, "got nan"),
        ({"plan": "ancestral"}, 4, "mixture.*plan='ancestral': there are first_hitting, nested"),
        ({"rule": "klass"}, 4, "mixture.*rule='klass': there are confidence, margin, entropy"),
        ({}, 0, "steps must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, steps, message):
    with pytest.raises(ValueError, match=message):
        sampler_of("mixture", options, steps)
