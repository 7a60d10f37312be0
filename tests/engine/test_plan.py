"""Every constructor of plans: ranks, idle steps, orders, streams."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import oracle
import pytest
import torch
from engine_world import count_plan, start_of, time_plan

from mmprime.engine import MASKINGS, Canvas, Codec, Plan, Schedule, Span, halton_order, sampler_of

CANVAS = Canvas([Span("text", 3, Codec.base(9, 2)), Span("image", (2, 3), Codec.base(27, 3))])
N, L = CANVAS.num_subtokens, CANVAS.num_tokens
GIVEN, ABSENT = torch.zeros(N, dtype=torch.bool), torch.zeros(N, dtype=torch.bool)
GIVEN[[0, 3, 7, 9, 12, 13, 14]] = True  # parts of tokens, the whole of one
ABSENT[[5, 6, 15, 16, 17]] = True
REGIONS = [CANVAS.mask("image", box=(1, 0, 3, 2)), CANVAS.mask("text")]

BY_COUNT: dict[str, Callable[..., Plan]] = {
    "first_hitting": count_plan,
    "nested": partial(count_plan, masking="nested"),
    "token_synchronous": partial(count_plan, masking="token_synchronous"),
    "halton": partial(count_plan, by="halton"),
    "digit": partial(count_plan, by="digit"),
    "raster": partial(count_plan, by="raster"),
    "regions": partial(count_plan, by=REGIONS),
}


def by_time(schedule: Schedule, masking: str) -> Callable[..., Plan]:
    return lambda canvas, *args, **options: time_plan(canvas, schedule, 6, *args, masking=masking, **options)


ALL = {
    **BY_COUNT,
    "ancestral": by_time(Schedule.cosine(), "independent"),
    "ancestral_nested": by_time(Schedule.linear(), "nested"),
    "ancestral_token": by_time(Schedule.linear(), "token_synchronous"),
    "ancestral_coarse": by_time(Schedule.linear(), "coarse_first"),
}
COARSE_FIRST = {"nested", "halton", "digit", "raster", "ancestral_nested", "ancestral_coarse"}
TOGETHER = {"token_synchronous", "ancestral_token"}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("masks", [False, True], ids=["free", "given"])
def test_ranks_of_every_constructor(name: str, masks: bool) -> None:
    options = {"given": GIVEN, "absent": ABSENT} if masks else {}
    plan = ALL[name](CANVAS, 40, 1, **options)
    rank, given, absent = plan.rank, GIVEN & masks, ABSENT & masks
    free = ~(given | absent)
    assert rank.shape == (40, N)
    assert rank.dtype == torch.int64
    assert (rank[:, given] == 0).all()
    assert (rank[:, absent] == -1).all()
    assert (rank[:, free] >= 1).all()
    assert (rank <= plan.num_steps).all()
    assert len(rank.unique(dim=0)) == 1 if name == "raster" else len(rank.unique(dim=0)) > 5
    for token in range(L):
        inside = rank[:, free & (CANVAS.token_of == token)]
        if name in TOGETHER and inside.shape[1]:
            assert (inside == inside[:, :1]).all()
        if name in COARSE_FIRST:
            assert (inside.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("name", BY_COUNT)
def test_no_idle_step_by_count(name: str) -> None:
    free = ~(GIVEN | ABSENT)
    units = len(CANVAS.token_of[free].unique()) if name == "token_synchronous" else int(free.sum())
    for options in ({}, {"per_step": 3}, {"steps": 4}, {"steps": 5, "pace": Schedule.cosine()}, {"steps": 500}):
        plan = BY_COUNT[name](CANVAS, 20, 2, given=GIVEN, absent=ABSENT, **options)
        assert plan.steps_used.all()
        if "steps" in options:
            assert plan.num_steps <= min(options["steps"], units)  # a pace may ask for steps of no unit: dropped
            assert plan.num_steps == min(options["steps"], units) or "pace" in options
        else:
            assert plan.num_steps == -(-units // options.get("per_step", 1))


def test_one_unit_a_step_is_a_random_permutation() -> None:
    plan = Plan.first_hitting(CANVAS, 30, 3)
    assert torch.equal(plan.rank.sort(-1).values, torch.arange(1, N + 1).expand(30, N))
    small = oracle.plain_world().canvas
    rank = Plan.first_hitting(small, 6000, 4).rank
    number = (rank * torch.tensor([9, 3, 1])).sum(-1)
    counts = torch.stack([(number == n).sum() for n in number.unique()]).double()
    assert len(counts) == 6
    oracle.assert_distribution(counts, torch.full((6,), 1 / 6, dtype=torch.float64))


def test_nested_orders_are_random_merges() -> None:
    """Two tokens of two digits: the 4! orders of times fold to 6 merges of equal chance."""
    rank = Plan.nested(oracle.pair_world().canvas, 6000, 5).rank
    plans, counts = rank.unique(dim=0, return_counts=True)
    assert len(plans) == 6
    oracle.assert_distribution(counts.double(), torch.full((6,), 1 / 6, dtype=torch.float64))


def test_nested_times_are_those_of_the_free_digits() -> None:
    """With one digit of a token given, its other digit is one of three times: each of the three merges has chance 1/3.

    A given digit must not lend its time, or the rest of its token would come early.
    """
    given = torch.tensor([False, True, False, False])
    rank = Plan.nested(oracle.pair_world().canvas, 6000, 6, given=given).rank
    plans, counts = rank.unique(dim=0, return_counts=True)
    assert plans.tolist() == [[1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]]
    oracle.assert_distribution(counts.double(), torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"steps": 4, "pace": Schedule.cosine()}], ids=["singletons", "steps"])
def test_coarse_first_masking_by_count_is_the_order_by_digit(options: dict) -> None:
    by_masking = count_plan(CANVAS, 20, 9, "coarse_first", given=GIVEN, absent=ABSENT, **options)
    by_digit = count_plan(CANVAS, 20, 9, by="digit", given=GIVEN, absent=ABSENT, **options)
    assert torch.equal(by_masking.rank, by_digit.rank)


def test_coarse_first_by_time_gives_each_digit_level_its_share() -> None:
    """Two digits, six steps: coarse digits in steps 1..3, fine ones in 4..6, each step equally likely."""
    rank = Plan.ancestral(oracle.pair_world().canvas, Schedule.linear(), 6, 4000, 10, masking="coarse_first").rank
    for n, first in ((0, 1), (1, 4), (3, 4)):
        oracle.assert_distribution(
            oracle.counts_of(rank[:, n] - first, 3), torch.full((3,), 1 / 3, dtype=torch.float64)
        )


def test_a_pace_needs_steps() -> None:
    with pytest.raises(ValueError, match="give steps"):
        count_plan(oracle.mixed_world().canvas, 2, 0, "nested", pace=Schedule.cosine())


def test_pace_says_how_many_are_visible_after_each_step() -> None:
    canvas = Canvas([Span("text", 20, Codec.base(9, 2))])
    for pace in (None, Schedule.cosine(), Schedule.polynomial(2.0)):
        plan = count_plan(canvas, 3, 6, steps=5, pace=pace)
        alpha = (pace or Schedule.linear()).alpha(1 - torch.arange(1, 6, dtype=torch.float64) / 5)
        visible = torch.stack([(plan.rank <= k).sum(-1) for k in range(1, 6)], -1)
        assert torch.equal(visible, (alpha * 40 + 1e-9).floor().long().expand(3, 5))


def test_ancestral_counts_are_binomial_and_steps_may_idle() -> None:
    """P(rank = k) = α(1 - k/K) - α(1 - (k-1)/K), each sub-token on its own."""
    for schedule in (Schedule.linear(), Schedule.cosine(), Schedule.linear().window(0.5, 1.0)):
        plan = Plan.ancestral(CANVAS, schedule, 6, 4000, 7)
        chance = schedule.alpha(1 - torch.arange(7, dtype=torch.float64) / 6).diff()
        for n in (0, N - 1):
            oracle.assert_distribution(oracle.counts_of(plan.rank[:, n] - 1, 6), chance)
    window = Plan.ancestral(CANVAS, Schedule.linear().window(0.5, 1.0), 6, 10, 7)
    assert not window.steps_used[:, 3:].any()
    assert window.compact().num_steps == 3


def test_ancestral_respects_regions() -> None:
    schedule = Schedule.regions(
        {"text": Schedule.linear().window(0.5, 1.0), "image": Schedule.linear().window(0.0, 0.5)}, CANVAS
    )
    rank = Plan.ancestral(CANVAS, schedule, 10, 50, 8).rank
    assert rank[:, CANVAS.mask("text")].max() <= 5
    assert rank[:, CANVAS.mask("image")].min() >= 6
    coarse = CANVAS.mask(digits=[0])
    by_digit = Schedule.regions([(coarse, Schedule.linear()), (~coarse, Schedule.cosine())], CANVAS)
    with pytest.raises(ValueError, match="'nested' needs one schedule"):
        Plan.ancestral(CANVAS, by_digit, 4, 2, 0, masking="nested")


@pytest.mark.parametrize("name", ["ancestral", "ancestral_nested", "ancestral_token"])
def test_compact_keeps_the_order_and_drops_idle_steps(name: str) -> None:
    plan = ALL[name](CANVAS, 30, 9, given=GIVEN, absent=ABSENT)
    sparse = Plan(torch.where(plan.rank > 0, plan.rank * 3, plan.rank), 3 * plan.num_steps)
    packed = sparse.compact()
    before, after = sparse.rank, packed.rank
    assert torch.equal(before[:, :, None] < before[:, None], after[:, :, None] < after[:, None])
    assert torch.equal(before <= 0, after <= 0)
    used = packed.steps_used.sum(-1)
    assert torch.equal(used, sparse.steps_used.sum(-1))
    assert torch.equal(used, after.amax(-1))  # ranks 1..used, none skipped
    assert packed.num_steps == int(used.max())


SHORT = {
    "first_hitting": Plan.first_hitting,
    "nested": Plan.nested,
    "token_synchronous": Plan.token_synchronous,
    "halton": Plan.halton,
    "digit": partial(Plan.ordered, by="digit"),
    "raster": partial(Plan.ordered, by="raster"),
    "regions": partial(Plan.ordered, by=REGIONS),
    "ancestral": lambda c, *a, **o: Plan.ancestral(c, Schedule.cosine(), 6, *a, **o),
    "ancestral_nested": lambda c, *a, **o: Plan.ancestral(c, Schedule.linear(), 6, *a, masking="nested", **o),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_form_is_an_order_and_a_cut(name: str) -> None:
    for options in ({}, {"given": GIVEN}, *([{"steps": 4}, {"per_step": 3}] if name in BY_COUNT else [])):
        short, long = (forms[name](CANVAS, 5, 3, **options) for forms in (SHORT, ALL))
        assert torch.equal(short.rank, long.rank)
        assert short.num_steps == long.num_steps


@pytest.mark.parametrize("name", ["first_hitting", "nested", "token_synchronous", "halton", "raster", "coarse_first"])
def test_a_planned_sampler_is_an_order_and_a_cut(name: str) -> None:
    forms = {**BY_COUNT, "coarse_first": BY_COUNT["digit"]}
    sampler = sampler_of(name, {"pace": "cosine"}, 5)
    plan = sampler.plan(start_of(CANVAS, 5, 3, GIVEN, ABSENT))
    same = forms[name](CANVAS, 5, 3, given=GIVEN, absent=ABSENT, steps=5, pace=Schedule.cosine())
    assert torch.equal(plan.rank, same.rank)


@pytest.mark.parametrize("masking", MASKINGS)
def test_the_ancestral_sampler_is_an_order_on_a_grid(masking: str) -> None:
    sampler = sampler_of("ancestral", {"schedule": "cosine", "masking": masking}, 5)
    plan = sampler.plan(start_of(CANVAS, 5, 3, GIVEN, ABSENT))
    same = time_plan(CANVAS, Schedule.cosine(), 5, 5, 3, masking, GIVEN, ABSENT)
    assert torch.equal(plan.rank, same.rank)


def test_orders_by_digit_raster_and_region() -> None:
    by_digit = Plan.ordered(CANVAS, 10, 10, by="digit").rank
    for level in (0, 1):
        assert by_digit[:, CANVAS.digit_of == level].max() < by_digit[:, CANVAS.digit_of == level + 1].min()
    assert len(by_digit.unique(dim=0)) > 5  # random inside a class
    raster = Plan.ordered(CANVAS, 10, 10, by="raster").rank
    assert torch.equal(raster, torch.arange(1, N + 1).expand(10, N))
    rank = Plan.ordered(CANVAS, 10, 10, by=REGIONS).rank
    rest = ~(REGIONS[0] | REGIONS[1])
    assert rank[:, REGIONS[0]].max() < rank[:, REGIONS[1]].min()
    assert rank[:, REGIONS[1]].max() < rank[:, rest].min()


def test_halton_is_a_low_discrepancy_permutation() -> None:
    for length in (1, 7, 16, (1, 1), (4, 4), (3, 5), (8, 8), (16, 12)):
        span = Span("s", length, Codec.base(4, 1))
        assert halton_order(span).sort().values.tolist() == list(range(span.num_tokens))
    assert halton_order(Span("s", 8, Codec.base(4, 1))).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]  # bit reversal
    order = halton_order(Span("s", (12, 12), Codec.base(4, 1)))[:36]
    quarters = oracle.counts_of((order // 12 // 6) * 2 + order % 12 // 6, 4)
    assert quarters.min() >= 8  # a quarter of the tokens, evenly over the quarters of the picture


def test_halton_plans_roll_the_order_and_finish_tokens() -> None:
    canvas = Canvas([Span("image", (4, 4), Codec.base(9, 2))])
    rank = Plan.halton(canvas, 200, 11).rank
    assert (rank[:, 1::2] - rank[:, 0::2] == 1).all()  # coarse, then at once fine
    order = halton_order(canvas.spans[0])
    starts = set()
    for row in rank[:, 0::2]:
        walked = row.argsort()
        shift = int((order == walked[0]).nonzero())
        starts.add(shift)
        assert torch.equal(walked, order.roll(-shift))
    assert len(starts) == 16


@pytest.mark.parametrize("name", ALL)
def test_streams_do_not_depend_on_the_batch(name: str) -> None:
    whole = ALL[name](CANVAS, 8, 12).rank
    assert torch.equal(ALL[name](CANVAS, 3, 12).rank, whole[:3])
    seeds = [torch.Generator().manual_seed(s) for s in (5, 6, 7)]
    a = ALL[name](CANVAS, 3, seeds).rank
    shuffled = [torch.Generator().manual_seed(s) for s in (7, 5)]
    assert torch.equal(ALL[name](CANVAS, 2, shuffled).rank, a[[2, 0]])
    if name != "raster":
        assert not torch.equal(ALL[name](CANVAS, 8, 13).rank, whole)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\[0, 5\].*4 steps"):
        Plan(torch.tensor([[0, 5]]), 4)
    with pytest.raises(ValueError, match=r"\[-2, 1\]"):
        Plan(torch.tensor([[-2, 1]]), 4)
    with pytest.raises(ValueError, match="float32"):
        Plan(torch.zeros(1, 2), 4)
    for call in BY_COUNT.values():
        with pytest.raises(ValueError, match="at least 1, got 0"):
            call(CANVAS, 2, 0, per_step=0)
        with pytest.raises(ValueError, match="got 1 and -3"):
            call(CANVAS, 2, 0, steps=-3)
        with pytest.raises(ValueError, match=r"per_step \(2\) or steps \(3\)"):
            call(CANVAS, 2, 0, per_step=2, steps=3)
        with pytest.raises(ValueError, match="both given and absent"):
            call(CANVAS, 2, 0, given=GIVEN, absent=GIVEN)
        with pytest.raises(ValueError, match=r"\(4,\)"):
            call(CANVAS, 2, 0, given=GIVEN[:4])
        with pytest.raises(ValueError, match="3 generators for a batch of 2"):
            call(CANVAS, 2, [torch.Generator()] * 3)
    with pytest.raises(ValueError, match="'spiral'"):
        Plan.ordered(CANVAS, 2, 0, by="spiral")
    with pytest.raises(ValueError, match="'backwards'"):
        Plan.first_hitting(CANVAS, 2, 0, masking="backwards")
    with pytest.raises(ValueError, match="at least one step, got 0"):
        Plan.ancestral(CANVAS, Schedule.linear(), 0, 2)
