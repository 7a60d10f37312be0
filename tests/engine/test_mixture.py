"""A plan mixed with a rule: each end of the share is the thing itself, and what is between is counted by hand."""

from __future__ import annotations

import oracle
import pytest
import torch
from mmprime.engine.policy import Look

from mmprime.engine import Canvas, Codec, Plan, Span, sample
from mmprime.engine.samplers import Margin, Mixture
from mmprime.engine.samplers.registry import Request, build

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
PERFECT, WRONG = oracle.perfect(WORLD), oracle.wrong(WORLD)
ORDERS = ("halton", "nested", "first_hitting", "token_synchronous", "raster", "coarse_first")
RULES = ("confidence", "margin", "entropy")
BATCH = 4000
PARTLY = torch.where(torch.tensor([True, False, False, False, False, False]), WORLD.y[13], -1).expand(40, -1)
ABSENT = torch.tensor([False, False, False, False, False, True])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("plan", ORDERS)
def test_share_one_is_the_plan(plan, steps):
    request = Request(CANVAS, 40, steps, 7, PARTLY >= 0, ABSENT)
    policy = build("mixture", request, {"share": 1.0, "plan": plan})
    record = sample(WRONG, CANVAS, policy, PARTLY, generator=8, absent=ABSENT)
    assert torch.equal(record.rank, build(plan, request).rank)


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
@pytest.mark.parametrize(
    ("plan", "unit"), [("halton", "digit"), ("first_hitting", "digit"), ("token_synchronous", "token")]
)
@pytest.mark.parametrize("rule", RULES)
def test_share_zero_is_the_rule(rule, plan, unit, steps):
    request = Request(CANVAS, 40, steps, 7, PARTLY >= 0)
    policy = build("mixture", request, {"share": 0.0, "plan": plan, "rule": rule})
    record = sample(WRONG, CANVAS, policy, PARTLY, generator=8)
    alone = sample(WRONG, CANVAS, build(rule, request, {"pace": "linear", "unit": unit}), PARTLY, generator=8)
    for field in ("y", "rank", "nfe"):
        assert torch.equal(getattr(record, field), getattr(alone, field)), field


@pytest.mark.parametrize("plan", ORDERS)
@pytest.mark.parametrize("rule", ["margin", "entropy"])
def test_by_laws_alone_one_unit_at_a_time_is_exact(rule, plan):
    policy = build("mixture", Request(CANVAS, BATCH, 6, 9), {"share": 0.4, "plan": plan, "rule": rule})
    record = sample(PERFECT, CANVAS, policy, batch=BATCH, generator=10)
    assert (record.nfe == (3 if plan == "token_synchronous" else 6)).all()
    oracle.assert_law(oracle.counts_of(WORLD.index(record.y), len(WORLD.p)), WORLD.p)


def test_the_plan_goes_first_and_the_rule_takes_the_best_of_the_others():
    """Two tokens of two digits, one of them half known: what is shown is read off the formula."""
    canvas = Canvas([Span("text", 3, Codec.base(4, 2))])
    order = Plan(torch.tensor([[2, 5, 1, 4, 0, 3]]), 5)  # digits 0 and 1 are token 0's, and so on; 4 is given
    hidden = torch.tensor([[True, True, True, True, False, True]])
    sure = torch.tensor([[[0.1], [0.8], [0.3]]], dtype=torch.float64)
    candidate, noise = torch.ones(1, 3, dtype=torch.bool), torch.full((1, 3), 0.5, dtype=torch.float64)
    none, left = torch.zeros_like(candidate), torch.tensor([5])

    def shown(share: float, steps: int, step: int = 1, total: int = 5) -> list[int]:
        count = torch.tensor([total])
        look = Look(step, candidate, sure, left, count, noise, none, torch.tensor([0]), canvas, hidden, ~hidden)
        return Mixture(order, Margin(steps), share).choose(look).reveal[0].nonzero()[:, 0].tolist()

    assert shown(0.0, 2) == [2, 5]  # 2 of 5 units: the next digits of the surest tokens, 1 and 2
    assert shown(0.5, 2) == [2, 3]  # the plan's first is 2; the surest token is still 1, which has 3 left
    assert shown(1.0, 2) == [0, 2]
    assert shown(0.5, 1) == [0, 1, 2, 3, 5]
    assert shown(0.4, 5) == [2]  # ⌊0.4 · 1⌋ = 0: the rule alone
    sure[0, :, 0] = torch.tensor([0.1, 0.3, 0.8])
    assert shown(0.4, 8, 4, 8) == [5]  # the fourth unit of 8: ⌊0.4 · 4⌋ - ⌊0.4 · 3⌋ = 0, the rule
    assert shown(0.5, 8, 4, 8) == [2]  # ⌊0.5 · 4⌋ - ⌊0.5 · 3⌋ = 1, the plan


def test_every_share_keeps_the_budget_and_what_is_given():
    for share in (0.2, 0.5, 0.8):
        for plan in ORDERS:
            policy = build("mixture", Request(CANVAS, 40, 3, 7, PARTLY >= 0), {"share": share, "plan": plan})
            record = sample(WRONG, CANVAS, policy, PARTLY, generator=8)
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
        ({"plan": "ancestral"}, 4, "mixture: unknown plan 'ancestral'; there are halton, nested"),
        ({"rule": "moment"}, 4, "mixture: unknown rule 'moment'; there are confidence, margin, entropy"),
        ({}, 0, "steps must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, steps, message):
    with pytest.raises(ValueError, match=message):
        build("mixture", Request(CANVAS, 2, steps, 7), options)


def test_a_plan_of_another_request_is_refused():
    policy = build("mixture", Request(CANVAS, 40, 3, 7, PARTLY >= 0), {"share": 0.5})
    with pytest.raises(ValueError, match="a plan for 40 examples, 2 to draw"):
        sample(WRONG, CANVAS, policy, batch=2, generator=8)
    with pytest.raises(ValueError, match="leaves hidden sub-tokens out; build it with the given"):
        sample(WRONG, CANVAS, policy, batch=40, generator=8)
