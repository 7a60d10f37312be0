"""What one of T steps may reveal: the sum over it is the mean of what is drawn, and varies less."""

from __future__ import annotations

import oracle
import pytest
import torch
from mmprime.engine.masking.steps import can_sum, step_chance, step_events

from mmprime.engine import LAWS, Canvas, Codec, Plan, Schedule, Span, nelbo, plan_nats

WORLD = oracle.make_world([Span("text", 2, Codec.mixed_radix((2, 2, 2))), Span("image", (1, 1), Codec.base(3, 1))], 4)
WRONG = oracle.wrong(WORLD)
Y0 = WORLD.y[[0, 17, 90, 150]]
DRAWS = 800
PLACES = Schedule.places((1.0, 3.0, 0.5), WORLD.canvas)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize(("law", "schedule"), [*((law, Schedule.cosine()) for law in LAWS), ("independent", PLACES)])
def test_three_digits_a_token_meet_plans_that_are_drawn_whole(law: str, schedule: Schedule, steps: int) -> None:
    """`plan_nats` of ancestral plans has the same mean and comes by none of the sums; one digit is given."""
    rows, given = Y0.repeat(DRAWS, 1), torch.tensor([False, True, False, False, False, False, False])
    summed = nelbo(WRONG, WORLD.canvas, rows, steps, law, given, generator=seeded(1), schedule=schedule).detach()
    plan = Plan.ancestral(WORLD.canvas, schedule, steps, len(rows), seeded(2), given, masking=law)
    drawn = plan_nats(WRONG, WORLD.canvas, rows, plan).detach()
    difference = summed.view(DRAWS, -1).mean(1) - drawn.view(DRAWS, -1).mean(1)
    oracle.assert_mean(difference, 0.0)


@pytest.mark.parametrize("law", LAWS)
def test_chances_of_the_sets_add_up_to_what_is_revealed(law: str) -> None:
    """The weights of the sets that show a digit add up to its chance; under nested the sums over tokens agree."""
    canvas, steps = WORLD.canvas, 3
    y0 = WORLD.y[:60]
    plan = Plan.ancestral(canvas, Schedule.linear(), steps, 60, seeded(3), masking=law)
    step = 1 + torch.arange(60) % steps
    hidden = plan.rank >= step[:, None]
    y_t = torch.where(hidden, -1, y0)
    chance = step_chance(canvas, law, Schedule.linear(), step, steps)
    events = step_events(canvas, law, y0, y_t, hidden, chance)
    shown = (events.after != y_t).double() * events.weight[:, :, canvas.token_of]
    sums = shown.sum(0), torch.where(hidden, chance, 0.0)
    if law == "nested":
        whole = hidden[:, :3].all(-1)
        assert bool((sums[0][whole, :2] >= sums[0][whole, 1:3]).all())
        sums = tuple(torch.zeros(60, canvas.num_tokens).double().index_add(1, canvas.token_of, each) for each in sums)
    assert torch.allclose(*sums)
    last = step == steps
    assert torch.equal(chance[last][hidden[last]], torch.ones_like(chance[last][hidden[last]]))


@pytest.mark.parametrize("law", LAWS)
def test_it_varies_less_than_a_drawn_step(law: str) -> None:
    rows, steps = Y0[:1].repeat(DRAWS, 1), 4
    summed = nelbo(WRONG, WORLD.canvas, rows, steps, law, generator=seeded(1)).detach()
    plan = Plan.ancestral(WORLD.canvas, Schedule.linear(), steps, DRAWS, seeded(2), masking=law)
    step = torch.arange(DRAWS) % steps + 1
    rank = torch.where(plan.rank < step[:, None], 0, torch.where(plan.rank == step[:, None], 1, -1))
    drawn = steps * plan_nats(WRONG, WORLD.canvas, rows, Plan(rank, 1)).detach()
    oracle.assert_mean(summed - float(drawn.mean()), 0.0, errors=5.0)
    assert float(summed.var()) < 0.8 * float(drawn.var())


def test_many_independent_digits_are_drawn() -> None:
    """Sixteen sets and more are not summed; the estimate is the same."""
    assert not can_sum(Canvas([Span("text", 1, Codec.base(16, 4))]), "independent")
    assert can_sum(Canvas([Span("text", 1, Codec.base(16, 4))]), "nested")
    world = oracle.make_world([Span("text", 2, Codec.mixed_radix((2, 2, 2, 2)))], 7)
    wrong, rows = oracle.wrong(world), world.y[[5, 200]].repeat(DRAWS, 1)
    _, exact = oracle.law_of(wrong, world.canvas, rows[:2], "independent", steps=2)
    nats = nelbo(wrong, world.canvas, rows, 2, "independent", generator=seeded(4)).detach()
    oracle.assert_mean(nats.view(DRAWS, 2).mean(1), float(exact.mean()))
