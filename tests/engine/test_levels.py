"""Level powers, α_j = 1 - t^{p_j} for digit level j: estimates, exact values, training states and samples agree."""

from __future__ import annotations

import itertools
from dataclasses import replace

import oracle
import oracle_walk
import pytest
import torch
from engine_world import count_plan, start_of

from mmprime.engine import (
    Canvas,
    Codec,
    Masking,
    Schedule,
    Span,
    exact_nelbo,
    joint_loss,
    masking_of,
    nelbo,
    sample,
    sampler_of,
)
from mmprime.engine.schedule import RegionSchedule

WORLD = oracle.mixed_world()
CANVAS, WRONG, PERFECT = WORLD.canvas, oracle.wrong(WORLD), oracle.perfect(WORLD)
Y0 = WORLD.y[torch.tensor([0, 13, 22, 37, 44])]
GIVEN = torch.tensor([False, True, False, False, True, False])
POWERS = (0.6, 2.5)
LEVELS = Schedule.levels(POWERS, CANVAS)
RATES = [POWERS[int(digit)] for digit in CANVAS.digit_of]
DRAWS = 2000


def by(schedule: Schedule, masking: str = "independent", by_time: bool = False) -> Masking:
    return replace(masking_of(masking), schedule=schedule, by_time=by_time)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_digit_level_has_its_power_and_single_digits_have_one() -> None:
    canvas = Canvas([Span("text", 2, Codec.base(5, 1)), Span("image", (1, 2), Codec.base(4, 2))])
    schedule, t = Schedule.levels([0.5, 3], canvas), torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    power = torch.tensor([1, 1, 0.5, 3, 0.5, 3], dtype=torch.float64)
    assert torch.allclose(schedule.alpha(t), 1 - t**power)
    assert torch.allclose(schedule.weight(t), power / t)
    assert isinstance(schedule, RegionSchedule)
    assert torch.equal(schedule.powers, power)
    mixed = Schedule.regions({"text": Schedule.linear(), "image": Schedule.cosine()}, canvas)
    assert isinstance(mixed, RegionSchedule)
    assert mixed.powers is None


@pytest.mark.parametrize(
    ("powers", "digits", "message"),
    [
        ([1.0], (2, 2), r"\[1.0\].*'a': 2, 'b': 2"),
        ([1.0, 2.0, 3.0, 4.0], (1, 2), r"\[1.0, 2.0, 3.0, 4.0\].*'a': 1, 'b': 2"),
        ([1.0, 2.0], (2, 3), "'a': 2, 'b': 3"),
        ([1.0], (1, 1), "more than one digit"),
        ([], (2, 2), r"\[\]"),
        ([1.0, -2.0], (2, 2), "power > 0, got -2.0"),
    ],
)
def test_powers_that_do_not_fit_are_refused(powers: list[float], digits: tuple[int, int], message: str) -> None:
    canvas = Canvas([Span(name, 2, Codec.base(9, count)) for name, count in zip("ab", digits)])
    with pytest.raises(ValueError, match=message):
        Schedule.levels(powers, canvas)


@pytest.mark.parametrize("given", [None, GIVEN], ids=["free", "given"])
@pytest.mark.parametrize("steps", [None, 1, 3])
def test_exact_value(steps: int | None, given: torch.Tensor | None) -> None:
    known = [] if given is None else given.nonzero()[:, 0].tolist()
    value = exact_nelbo(WRONG, CANVAS, Y0, steps, masking=by(LEVELS), given=given)
    nll, bound = oracle_walk.likelihood_of(WRONG, CANVAS, Y0, "independent", LEVELS, steps, known, rates=RATES)
    even = oracle_walk.likelihood_of(WRONG, CANVAS, Y0, "independent", None, steps, known)[1]
    assert torch.allclose(value.nll, nll, atol=1e-9)
    assert torch.allclose(value.bound, bound, atol=1e-9)
    assert steps == 1 or (bound - even).abs().max() > 0.02  # one step reveals everything, whatever the powers


@pytest.mark.parametrize("steps", [None, 1, 2])
def test_the_bound_holds(steps: int | None) -> None:
    for denoiser in (PERFECT, WRONG):
        value = exact_nelbo(denoiser, CANVAS, WORLD.y, steps, by(LEVELS))
        assert float(value.nll.detach().neg().exp().sum()) == pytest.approx(1, abs=1e-9)
        assert float((WORLD.p * value.bound.detach()).sum()) >= WORLD.entropy - 1e-9
    best = exact_nelbo(PERFECT, CANVAS, WORLD.y, masking=by(LEVELS)).bound
    assert torch.allclose(best, -WORLD.p.log(), atol=1e-9)  # singletons: the chain rule in every order


@pytest.mark.parametrize("given", [None, GIVEN], ids=["free", "given"])
@pytest.mark.parametrize("options", [{}, {"by_time": True}, {"steps": 3}], ids=["count", "time", "finite"])
def test_estimates_meet_exact(options: dict, given: torch.Tensor | None) -> None:
    steps, masking = options.get("steps"), by(LEVELS, by_time=options.get("by_time", False))
    assert masking.counts != masking.by_time
    exact = exact_nelbo(WRONG, CANVAS, Y0, steps, masking, given).bound.detach()
    nats = nelbo(WRONG, CANVAS, Y0.repeat(DRAWS, 1), steps, masking, given, generator=seeded(1)).detach()
    for column, value in zip(nats.view(DRAWS, -1).T, exact.tolist()):
        oracle.assert_mean(column, value)
    oracle.assert_mean(nats.view(DRAWS, -1).mean(1), float(exact.mean()), errors=3.0)


def test_reveal_times_near_zero_stay_apart() -> None:
    """τ = u^16 is mostly below the precision of 1 - τ."""
    far = Schedule.levels((1.0, 1 / 16), CANVAS)
    exact = exact_nelbo(WRONG, CANVAS, Y0, masking=by(far)).bound.detach()
    rows = Y0.repeat(4 * DRAWS, 1)
    nats = nelbo(WRONG, CANVAS, rows, masking=by(far), generator=seeded(8)).detach()
    oracle.assert_mean(nats.view(4 * DRAWS, -1).mean(1), float(exact.mean()), errors=3.0)
    plan = count_plan(CANVAS, 500, 9, schedule=far)
    assert torch.equal(plan.rank.sort(-1).values, torch.arange(1, 7).expand(500, -1))


def test_counting_needs_the_chances_of_the_next_reveal() -> None:
    """Regions of other shapes, and other masking processes by regions, are estimated at random times."""
    apart = Schedule.regions({"text": Schedule.cosine(), "image": Schedule.linear()}, CANVAS)
    powers = Schedule.regions({"text": Schedule.polynomial(2.0), "image": Schedule.linear()}, CANVAS)
    assert by(powers).counts
    assert by(Schedule.cosine(), "nested").counts
    assert not by(apart).counts
    assert not by(powers, "nested").counts


def test_equal_powers_change_nothing() -> None:
    even = Schedule.levels([1.0, 1.0], CANVAS)
    for call in (joint_loss, nelbo):
        plain = call(WRONG, CANVAS, Y0.repeat(40, 1), generator=seeded(2))
        assert torch.allclose(call(WRONG, CANVAS, Y0.repeat(40, 1), generator=seeded(2), masking=by(even)), plain)


def test_joint_loss_masks_what_the_schedule_reveals_last() -> None:
    """m = 1..6 equally likely; the chance of each masked set by summing over the orders that end in it."""
    chance: dict[frozenset[int], float] = {}
    for order in itertools.permutations(range(6)):
        probability, left = 1.0, sum(RATES)
        for n in order:
            probability, left = probability * RATES[n] / left, left - RATES[n]
        for m in range(1, 7):
            masked = frozenset(order[6 - m :])
            chance[masked] = chance.get(masked, 0.0) + probability / 6
    exact = torch.zeros(len(Y0), dtype=torch.float64)
    for masked, probability in chance.items():
        visible = frozenset(range(6)) - masked
        exact -= probability * 6 / len(masked) * oracle.log_reveal(WRONG, CANVAS, Y0, visible, masked)
    loss = joint_loss(WRONG, CANVAS, Y0.repeat(DRAWS, 1), generator=seeded(3), masking=by(LEVELS)).detach()
    for column, value in zip(loss.view(DRAWS, -1).T, exact.tolist()):
        oracle.assert_mean(column, value)
    with pytest.raises(ValueError, match="'nested' needs one schedule"):
        joint_loss(WRONG, CANVAS, Y0, masking=by(LEVELS, "nested"))


@pytest.mark.parametrize("steps", [2, 3])
def test_ancestral_samples_have_the_distribution_that_is_scored(steps: int) -> None:
    sampler = sampler_of("ancestral", {"schedule": "levels:0.6,2.5"}, steps)
    nll, _ = oracle_walk.likelihood_of(WRONG, CANVAS, WORLD.y, schedule=LEVELS, steps=steps)
    record = sample(WRONG, CANVAS, sampler, batch=4000, generator=5)
    oracle.assert_distribution(oracle.counts_of(WORLD.index(record.y), len(WORLD.p)), (-nll).exp())


def test_one_digit_a_step_races() -> None:
    plan = sampler_of("first_hitting", {"schedule": "levels:0.6,2.5"}, 6).plan(start_of(CANVAS, 4000, 6))
    assert torch.equal(plan.rank, count_plan(CANVAS, 4000, 6, schedule=LEVELS).rank)
    assert torch.equal(plan.rank.sort(-1).values, torch.arange(1, 7).expand(4000, -1))
    first = oracle.counts_of(plan.rank.argmin(-1), 6)
    oracle.assert_distribution(first, torch.tensor(RATES, dtype=torch.float64) / sum(RATES))
    nll, _ = oracle_walk.likelihood_of(WRONG, CANVAS, WORLD.y, rates=RATES)
    record = sample(WRONG, CANVAS, plan, generator=7)
    oracle.assert_distribution(oracle.counts_of(WORLD.index(record.y), len(WORLD.p)), (-nll).exp())


def test_powers_by_level_are_no_pace() -> None:
    sampler = sampler_of("nested", {"pace": "levels:0.6,2.5"}, 4)
    with pytest.raises(ValueError, match=r"schedule 'levels:0.6,2.5' has an α for each digit level.* no pace"):
        sample(WRONG, CANVAS, sampler, batch=2)


@pytest.mark.parametrize("word", ["levels:", "levels:1,x", "levels:1", "levels:1,2,3"])
def test_words_that_are_no_powers(word: str) -> None:
    with pytest.raises(ValueError, match=word):
        sample(WRONG, CANVAS, sampler_of("ancestral", {"schedule": word}, 4), batch=2)
