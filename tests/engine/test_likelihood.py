"""The Monte-Carlo bounds meet the exact ones, for denoisers that are wrong too (a perfect one hides mistakes)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import oracle
import oracle_walk
import pytest
import torch
from engine_world import count_plan
from torch import Tensor

from mmprime.engine import MASKINGS, Masking, Plan, Rows, Schedule, joint_loss, masking_of, nelbo, plan_nats
from mmprime.engine.denoiser import reveal_nats

WORLD = oracle.mixed_world()
WRONG = oracle.wrong(WORLD)
PICK = torch.tensor([0, 13, 22, 37, 44])  # configurations scored one by one
DRAWS = 2000
GIVEN = torch.tensor([False, True, False, False, True, False])  # digit 1 of text token 0, digit 0 of the image
ABSENT = torch.tensor([False, False, True, False, False, True])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def timed(masking: str, schedule: Schedule) -> Masking:
    """The masking with that schedule, the continuous bound estimated at random times."""
    return replace(masking_of(masking), schedule=schedule, by_time=True)


def check_estimate(
    exact: torch.Tensor,
    y0: torch.Tensor,
    seed: int,
    given: torch.Tensor | None = None,
    absent: torch.Tensor | None = None,
    **options: object,
) -> None:
    """Repeat every row of y0, estimate once for each, compare each row's mean and the mean of all with `exact`."""
    rows = Rows.of(WORLD.canvas, y0.repeat(DRAWS, 1), given, absent)
    nats = nelbo(WRONG, WORLD.canvas, rows, generator=seeded(seed), **options).detach()
    nats = nats.view(DRAWS, len(y0))
    for column, value in zip(nats.T, exact.tolist()):
        oracle.assert_mean(column, value)
    oracle.assert_mean(nats.mean(1), float(exact.mean()))


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("schedule", [None, Schedule.linear(), Schedule.cosine()], ids=["count", "linear", "cosine"])
def test_continuous_estimate_meets_exact(masking: str, schedule: Schedule | None) -> None:
    y0 = WORLD.y[PICK]
    _, exact = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, masking)
    check_estimate(exact, y0, 10, masking=masking if schedule is None else timed(masking, schedule))


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_finite_estimate_meets_exact(masking: str, steps: int) -> None:
    y0 = WORLD.y[PICK]
    _, exact = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, masking, steps=steps)
    check_estimate(exact, y0, 20 + steps, masking=masking, steps=steps)


def test_finite_estimate_places_its_grid_by_the_schedule() -> None:
    y0 = WORLD.y[PICK]
    schedule = Schedule.polynomial(3.0)
    _, exact = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, "independent", schedule, steps=2)
    _, linear = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, "independent", steps=2)
    assert (exact - linear).abs().max() > 0.05  # else the test would not see the schedule
    check_estimate(exact, y0, 30, steps=2, masking=timed("independent", schedule))


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("steps", [None, 3])
def test_given_and_absent_subtokens(masking: str, steps: int | None) -> None:
    y0 = WORLD.y[PICK].clone()
    given, absent = GIVEN.nonzero()[:, 0].tolist(), ABSENT.nonzero()[:, 0].tolist()
    _, exact = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, masking, steps=steps, given=given, absent=absent)
    _, all_scored = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, masking, steps=steps)
    assert (exact - all_scored).abs().min() > 0.05
    check_estimate(exact, y0, 40, masking=masking, steps=steps, given=GIVEN, absent=ABSENT)
    y0[:, ABSENT] = -1  # an absent sub-token need not have a value, and a value it has is not seen
    check_estimate(exact, y0, 40, masking=masking, steps=steps, given=GIVEN, absent=ABSENT)


def test_given_may_differ_between_examples() -> None:
    y0 = WORLD.y[PICK[:2]]
    masks = torch.stack([GIVEN, ABSENT])
    exact = [
        oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0[b : b + 1], given=masks[b].nonzero()[:, 0].tolist())[1]
        for b in range(2)
    ]
    check_estimate(torch.cat(exact), y0, 50, given=masks.repeat(DRAWS, 1))


@pytest.mark.parametrize("masking", [name for name in MASKINGS if name != "coarse_first"])
def test_regions_with_rates_of_their_own(masking: str) -> None:
    """α = 1 - t^p: reveal times race with rate p, so the order is Plackett-Luce with weights p."""
    y0 = WORLD.y[PICK]
    schedule = Schedule.regions({"text": Schedule.polynomial(0.7), "image": Schedule.polynomial(2.5)}, WORLD.canvas)
    rates = [0.7] * 4 + [2.5] * 2
    _, exact = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, masking, rates=rates)
    check_estimate(exact, y0, 60, masking=timed(masking, schedule))
    _, finite = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, masking, schedule, steps=3)
    check_estimate(finite, y0, 61, masking=timed(masking, schedule), steps=3)


def test_coarse_first_regions_with_schedules_of_their_own() -> None:
    """The rates of the process, integrated over time and states, against whole plans in the order of times drawn here.

    (An estimate by time would say little here: its variance is infinite at the end of each digit level's window.)
    """
    canvas, y0 = WORLD.canvas, WORLD.y[PICK]
    schedule = Schedule.regions({"text": Schedule.polynomial(0.5), "image": Schedule.polynomial(3.0)}, canvas)
    root = (torch.arange(4000, dtype=torch.float64)[:, None] + 0.5) / 4000
    time = root**2  # and dt = 2 root d(root): the derivative of 1 - sqrt(t) is infinite at 0
    seen = (2 * schedule.alpha(time) - canvas.digit_of).clamp(0, 1)
    rates = 2 * root * timed("coarse_first", schedule).rate_by_time(canvas, time)
    exact = torch.zeros(len(y0), dtype=torch.float64)
    for bits in itertools.product([False, True], repeat=6):
        masked = torch.tensor(bits)
        visible = frozenset((~masked).nonzero()[:, 0].tolist())
        flow = (torch.where(masked, 1 - seen, seen).prod(-1, keepdim=True) * rates).mean(0)
        for n in (masked & (flow > 0)).nonzero()[:, 0].tolist():
            exact -= flow[n] * oracle.log_reveal(WRONG, canvas, y0, visible, frozenset([n]))
    rows = y0.repeat(2 * DRAWS, 1)
    key = (canvas.digit_of + torch.rand(rows.shape, generator=seeded(62), dtype=torch.float64)) / 2
    times = torch.where(canvas.mask("text"), (1 - key) ** 2, (1 - key) ** (1 / 3))
    nats = plan_nats(WRONG, canvas, rows, Plan(1 + (-times).argsort(-1).argsort(-1), 6)).detach()
    oracle.assert_mean(nats.view(-1, len(PICK)).mean(1), float(exact.mean()))
    together = oracle_walk.likelihood_of(WRONG, canvas, y0, "coarse_first")[1]
    assert (exact - together).abs().max() > 0.05  # else the regions would not be seen
    _, finite = oracle_walk.likelihood_of(WRONG, canvas, y0, "coarse_first", schedule, steps=3)
    check_estimate(finite, y0, 64, masking=timed("coarse_first", schedule), steps=3)


def test_regions_in_windows_reveal_one_region_after_the_other() -> None:
    y0 = WORLD.y[PICK]
    late, early = Schedule.linear().window(0.0, 0.4), Schedule.cosine().window(0.4, 1.0)
    schedule = Schedule.regions({"text": early, "image": late}, WORLD.canvas)
    _, exact = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0, rates=[1.0] * 4 + [1e-12] * 2)
    check_estimate(exact, y0, 70, masking=timed("independent", schedule))


def test_digits_of_a_token_must_share_a_schedule_unless_independent() -> None:
    canvas = WORLD.canvas
    coarse = canvas.mask(digits=[0])
    schedule = Schedule.regions([(coarse, Schedule.linear()), (~coarse, Schedule.cosine())], canvas)
    for masking in ("nested", "token_synchronous", "coarse_first"):
        for steps in (None, 2):
            with pytest.raises(ValueError, match=masking):
                nelbo(WRONG, canvas, WORLD.y, masking=timed(masking, schedule), steps=steps)
    assert nelbo(WRONG, canvas, WORLD.y, masking=timed("independent", schedule)).isfinite().all()


def test_more_samples_average() -> None:
    y0 = WORLD.y[PICK]
    _, exact = oracle_walk.likelihood_of(WRONG, WORLD.canvas, y0)
    nats = nelbo(WRONG, WORLD.canvas, y0.repeat(1500, 1), samples=3, generator=seeded(80)).detach().view(1500, -1)
    single = nelbo(WRONG, WORLD.canvas, y0.repeat(1500, 1), samples=1, generator=seeded(80)).detach().view(1500, -1)
    for column, value in zip(nats.T, exact.tolist()):
        oracle.assert_mean(column, value)
    assert nats.var(0).sum() < single.var(0).sum() / 3  # stratified times beat independent ones


def test_plan_nats_is_the_sum_over_steps() -> None:
    for masking in MASKINGS:
        plan = count_plan(WORLD.canvas, len(WORLD.y), 3, masking, given=GIVEN, absent=ABSENT, steps=2)
        nats = plan_nats(WRONG, WORLD.canvas, WORLD.y, plan)
        for b, rank in enumerate(plan.rank.tolist()):
            exact = -oracle.plan_log_likelihood(WRONG, WORLD.canvas, WORLD.y[b : b + 1], rank)
            assert torch.allclose(nats[b : b + 1].detach(), exact, atol=1e-9)


# -------------------------------------------------------------------------------------------- the joint loss


def test_joint_loss_of_two_equal_fair_bits_is_below_their_entropy() -> None:
    """The documented fact: entropy ln 2 = 0.693, joint loss of the perfect model 0.347. It is no bound."""
    world = oracle.equal_bits()
    loss = joint_loss(oracle.perfect(world), world.canvas, world.y.repeat(1000, 1), generator=seeded(0)).detach()
    assert world.entropy == pytest.approx(math.log(2))
    assert float(loss.mean()) == pytest.approx(math.log(2) / 2, abs=1e-3)  # 0.347; half of the (even) times hide both
    bound = nelbo(oracle.perfect(world), world.canvas, world.y.repeat(1000, 1), generator=seeded(0)).detach()
    assert float(bound.mean()) == pytest.approx(math.log(2), abs=1e-3)


def joint_by_hand(y0: torch.Tensor, world: oracle.World, denoiser: oracle.TableDenoiser) -> torch.Tensor:
    """Σ over masked sets of (1/n) / C(n, m) · (n/m) · -log p(all masked | visible), independent digits."""
    n = world.canvas.num_subtokens
    total = torch.zeros(len(y0), dtype=torch.float64)
    for bits in range(1, 2**n):
        masked = frozenset(i for i in range(n) if bits >> i & 1)
        visible = frozenset(range(n)) - masked
        m = len(masked)
        total -= oracle.log_reveal(denoiser, world.canvas, y0, visible, masked) / math.comb(n, m) / m
    return total


def test_joint_loss_value_and_that_it_lies_below_the_entropy() -> None:
    for world in (oracle.pair_world(), WORLD):
        exact = joint_by_hand(world.y, world, oracle.perfect(world))
        assert float((world.p * exact).sum()) < world.entropy - 0.02
    y0 = WORLD.y[PICK]
    exact = joint_by_hand(y0, WORLD, WRONG)
    loss = joint_loss(WRONG, WORLD.canvas, y0.repeat(DRAWS, 1), generator=seeded(1)).detach().view(DRAWS, -1)
    for column, value in zip(loss.T, exact.tolist()):
        oracle.assert_mean(column, value)


@pytest.mark.parametrize("masking", ["independent", "nested"])
def test_joint_loss_counts_neither_given_nor_absent_digits(masking: str) -> None:
    """Σ over masked sets of the free digits; what is absent is masked in every state and never scored."""
    y0, free = WORLD.y[PICK], (~(GIVEN | ABSENT)).nonzero()[:, 0].tolist()  # digits 0, 3 and 4's neighbour 5 is absent
    given = frozenset(GIVEN.nonzero()[:, 0].tolist())
    exact = torch.zeros(len(y0), dtype=torch.float64)
    for m in range(1, len(free) + 1):
        for masked in itertools.combinations(free, m):
            visible = given | (frozenset(free) - frozenset(masked))
            nats = -oracle.log_reveal(WRONG, WORLD.canvas, y0, visible, frozenset(masked))
            exact += nats / math.comb(len(free), m) / m
    assert len({int(WORLD.canvas.token_of[n]) for n in free}) == len(free)  # so nested orders are free too
    rows = Rows.of(WORLD.canvas, y0.repeat(DRAWS, 1), GIVEN, ABSENT)
    loss = joint_loss(WRONG, WORLD.canvas, rows, generator=seeded(7), masking=masking).detach().view(DRAWS, -1)
    for column, value in zip(loss.T, exact.tolist()):
        oracle.assert_mean(column, value)


def test_joint_loss_with_one_digit_is_the_bound() -> None:
    world = oracle.plain_world()
    denoiser = oracle.wrong(world)
    _, exact = oracle_walk.likelihood_of(denoiser, world.canvas, world.y)
    assert torch.allclose(joint_by_hand(world.y, world, denoiser), exact, atol=1e-9)
    loss = joint_loss(denoiser, world.canvas, world.y.repeat(500, 1), generator=seeded(2)).detach().view(500, -1)
    oracle.assert_mean(loss.mean(1), float(exact.mean()))


def test_joint_loss_of_coarse_first_states() -> None:
    """m = 1..n equally likely; fine digits are masked before any coarse one; a token weighs n/m."""
    canvas, y0 = WORLD.canvas, WORLD.y[PICK]
    coarse, fine = [0, 2, 4], [1, 3, 5]
    exact = torch.zeros(len(y0), dtype=torch.float64)
    for m in range(1, 7):
        sets = [fine] if m == 3 else itertools.combinations(fine, m) if m < 3 else itertools.combinations(coarse, m - 3)
        sets = [frozenset(part) | (frozenset(fine) if m > 3 else frozenset()) for part in sets]
        for masked in sets:
            visible = frozenset(range(6)) - masked
            exact -= oracle.log_reveal(WRONG, canvas, y0, visible, masked) / len(sets) / m
    rows = y0.repeat(DRAWS, 1)
    loss = joint_loss(WRONG, canvas, rows, masking="coarse_first", generator=seeded(6)).detach().view(DRAWS, -1)
    for column, value in zip(loss.T, exact.tolist()):
        oracle.assert_mean(column, value)


def test_joint_loss_can_time_the_spans_apart() -> None:
    """Independent spans: every pair (m_text, m_image) is equally likely and each span is weighted by its own n/m."""
    y0 = WORLD.y[PICK[1:2]]
    exact = 0.0
    for bits in range(1, 2**6):
        text, image = [i for i in range(4) if bits >> i & 1], [i for i in (4, 5) if bits >> i & 1]
        if not text or not image:
            continue  # at least one is masked in each group
        chance = 1 / 4 / math.comb(4, len(text)) / 2 / math.comb(2, len(image))
        visible = frozenset(range(6)) - frozenset(text) - frozenset(image)
        for part, n in ((text, 4), (image, 2)):
            value = oracle.log_reveal(WRONG, WORLD.canvas, y0, visible, frozenset(part))
            exact -= chance * n / len(part) * float(value)
    loss = joint_loss(WRONG, WORLD.canvas, y0.repeat(20000, 1), generator=seeded(3), independent_spans=True)
    oracle.assert_mean(loss.detach(), exact)


def test_mask_power_moves_the_share_that_is_masked_and_nothing_else() -> None:
    """E of the weighted loss under m = 1 + floor(n (1 - (1 - u)^p)) against the sum over m of its chance."""
    world = oracle.plain_world()
    denoiser, n = oracle.wrong(world), world.canvas.num_subtokens
    y0 = world.y[:1]
    for power in (1.0, 2.5):
        edges = 1 - (1 - torch.arange(n + 1, dtype=torch.float64) / n) ** (1 / power)
        chance = edges.diff()  # of hiding exactly m = 1..n
        uniform = torch.stack([_mean_masked_nats(denoiser, world, y0, m) for m in range(1, n + 1)])
        expected = (chance * n * uniform).sum()
        rows = y0.repeat(20000, 1)
        loss = joint_loss(denoiser, world.canvas, rows, generator=seeded(5), mask_power=power).detach()
        oracle.assert_mean(loss, float(expected))
    with pytest.raises(ValueError, match="-1"):
        joint_loss(denoiser, world.canvas, y0, mask_power=-1)


def _mean_masked_nats(denoiser: oracle.TableDenoiser, world: oracle.World, y0: Tensor, m: int) -> Tensor:
    """The mean over all sets of m masked tokens of the mean of -log p(token), S = 1."""
    n = world.canvas.num_subtokens
    values = []
    for masked in itertools.combinations(range(n), m):
        y_t = y0.clone()
        y_t[:, list(masked)] = -1
        nats = reveal_nats(denoiser, world.canvas, y_t, y0[None]).sum()
        values.append(nats.detach().double() / m)
    return torch.stack(values).mean()


def test_joint_loss_trains_to_the_right_token_posteriors() -> None:
    """A proper loss: its minimum over all tables is at the perfect denoiser; moving away from it costs."""
    world = oracle.pair_world()
    best = float((world.p * joint_by_hand(world.y, world, oracle.perfect(world))).sum())
    for seed in range(5):
        other = joint_by_hand(world.y, world, oracle.wrong(world, seed, 0.3))
        assert float((world.p * other).sum()) > best


# ------------------------------------------------------------------------------------------------- refusals


def test_illegal_arguments_are_refused_with_their_value() -> None:
    y = WORLD.y[:3]
    canvas = WORLD.canvas
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        nelbo(WRONG, canvas, y, samples=0)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        nelbo(WRONG, canvas, y, steps=0)
    for call in (nelbo, joint_loss):
        with pytest.raises(ValueError, match="'sideways'"):
            call(WRONG, canvas, y, masking="sideways")
        with pytest.raises(ValueError, match=r"\(3, 5\)"):
            call(WRONG, canvas, y[:, :5])
        with pytest.raises(ValueError, match=r"\(5,\)"):
            call(WRONG, canvas, y, given=GIVEN[:5])
        with pytest.raises(ValueError, match="int64"):
            call(WRONG, canvas, y, given=GIVEN.long())
        with pytest.raises(ValueError, match="both given and absent"):
            call(WRONG, canvas, Rows.of(canvas, y, GIVEN, GIVEN))
        with pytest.raises(ValueError, match="rows say themselves what is given"):
            call(WRONG, canvas, Rows.of(canvas, y), given=GIVEN)
        masked = y.clone()
        masked[1, 4] = -1
        with pytest.raises(ValueError, match="sub-token 4 of example 1"):
            call(WRONG, canvas, masked)
        outside = y.clone()
        outside[2, 3] = 2
        with pytest.raises(ValueError, match="digit 2 at sub-token 3 of example 2"):
            call(WRONG, canvas, outside)
