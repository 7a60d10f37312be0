"""What one of T steps may reveal: the sum over it is the mean of what is drawn, and varies less."""

from __future__ import annotations

from dataclasses import replace

import oracle
import oracle_walk
import pytest
import torch

from mmprime.engine import MASKINGS, Canvas, Codec, Masking, Plan, Schedule, Span, masking_of, nelbo, plan_nats

WORLD = oracle.make_world([Span("text", 2, Codec.mixed_radix((2, 2, 2))), Span("image", (1, 1), Codec.base(3, 1))], 4)
WRONG = oracle.wrong(WORLD)
Y0 = WORLD.y[[0, 17, 90, 150]]
DRAWS = 800
LEVELS = Schedule.levels((1.0, 3.0, 0.5), WORLD.canvas)


def by(masking: str, schedule: Schedule) -> Masking:
    return replace(masking_of(masking), schedule=schedule)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize(
    ("masking", "schedule"), [*((name, Schedule.cosine()) for name in MASKINGS), ("independent", LEVELS)]
)
def test_three_digits_a_token_meet_plans_that_are_drawn_whole(masking: str, schedule: Schedule, steps: int) -> None:
    """`plan_nats` of ancestral plans has the same mean and comes by none of the sums; one digit is given."""
    rows, given = Y0.repeat(DRAWS, 1), torch.tensor([False, True, False, False, False, False, False])
    summed = nelbo(WRONG, WORLD.canvas, rows, steps, by(masking, schedule), given, generator=seeded(1)).detach()
    plan = Plan.ancestral(WORLD.canvas, schedule, steps, len(rows), seeded(2), given, masking=masking)
    drawn = plan_nats(WRONG, WORLD.canvas, rows, plan).detach()
    difference = summed.view(DRAWS, -1).mean(1) - drawn.view(DRAWS, -1).mean(1)
    oracle.assert_mean(difference, 0.0)


@pytest.mark.parametrize("masking", MASKINGS)
def test_chances_of_the_sets_add_up_to_what_is_revealed(masking: str) -> None:
    """The weights of the sets that reveal a digit add up to its chance; under nested the sums over tokens agree."""
    canvas, steps = WORLD.canvas, 3
    y0 = WORLD.y[:60]
    plan = Plan.ancestral(canvas, Schedule.linear(), steps, 60, seeded(3), masking=masking)
    step = 1 + torch.arange(60) % steps
    masked = plan.rank >= step[:, None]
    y_t = torch.where(masked, -1, y0)
    process = masking_of(masking)
    chance = process.step_chance(canvas, step, steps)
    reveals = process.step_reveals(canvas, y0, y_t, masked, chance)
    revealed = (reveals.after != y_t).double() * reveals.weight[:, :, canvas.token_of]
    sums = revealed.sum(0), torch.where(masked, chance, 0.0)
    if masking == "nested":
        whole = masked[:, :3].all(-1)
        assert bool((sums[0][whole, :2] >= sums[0][whole, 1:3]).all())
        sums = tuple(torch.zeros(60, canvas.num_tokens).double().index_add(1, canvas.token_of, each) for each in sums)
    assert torch.allclose(*sums)
    last = step == steps
    assert torch.equal(chance[last][masked[last]], torch.ones_like(chance[last][masked[last]]))


@pytest.mark.parametrize("masking", MASKINGS)
def test_it_varies_less_than_a_drawn_step(masking: str) -> None:
    rows, steps = Y0[:1].repeat(DRAWS, 1), 4
    summed = nelbo(WRONG, WORLD.canvas, rows, steps, masking, generator=seeded(1)).detach()
    plan = Plan.ancestral(WORLD.canvas, Schedule.linear(), steps, DRAWS, seeded(2), masking=masking)
    step = torch.arange(DRAWS) % steps + 1
    rank = torch.where(plan.rank < step[:, None], 0, torch.where(plan.rank == step[:, None], 1, -1))
    drawn = steps * plan_nats(WRONG, WORLD.canvas, rows, Plan(rank, 1)).detach()
    oracle.assert_mean(summed - float(drawn.mean()), 0.0, errors=5.0)
    assert float(summed.var()) < 0.8 * float(drawn.var())


def test_many_independent_digits_are_drawn() -> None:
    """Sixteen sets and more are not summed; the estimate is the same."""
    canvas = Canvas([Span("text", 1, Codec.base(16, 4))])
    y0, masked, chance = torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), torch.full((1, 4), 0.5).double()
    for name, counted in (("independent", None), ("nested", 4), ("token_synchronous", 1)):
        reveals = masking_of(name).step_reveals(canvas, y0, torch.full_like(y0, -1), masked, chance)
        assert (reveals if reveals is None else len(reveals.after)) == counted
    world = oracle.make_world([Span("text", 2, Codec.mixed_radix((2, 2, 2, 2)))], 7)
    wrong, rows = oracle.wrong(world), world.y[[5, 200]].repeat(DRAWS, 1)
    _, exact = oracle_walk.likelihood_of(wrong, world.canvas, rows[:2], "independent", steps=2)
    nats = nelbo(wrong, world.canvas, rows, 2, "independent", generator=seeded(4)).detach()
    oracle.assert_mean(nats.view(DRAWS, 2).mean(1), float(exact.mean()))
