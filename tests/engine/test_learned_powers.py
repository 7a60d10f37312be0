"""Powers of digit levels learned on the bound of T steps."""

from __future__ import annotations

import digit_oracle
import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import (
    MASK_ID,
    Canvas,
    ChainHead,
    Codec,
    FactoredHead,
    Head,
    LearnedPowers,
    Rows,
    Schedule,
    Span,
    exact_nelbo,
    generator_of,
    learned_powers_loss,
)
from mmprime.engine.masking import IndependentMasking

PAIR = digit_oracle.product_world()  # two tokens of a bit and a trit
FOUR = digit_oracle.product_world(1, (2, 2, 2, 2))  # more digits than sets are summed over
TWO_SPANS = Canvas([Span("text", 2, Codec.product([3])), Span("image", 1, Codec.product([2, 3]))])


def bound(world: oracle.World, head: Head, y: Tensor, steps: int, powers: list[float]) -> float:
    masking = IndependentMasking(Schedule.levels(powers, world.canvas))
    model = digit_oracle.DigitTable(world.canvas, head)
    return float(exact_nelbo(model, world.canvas, y, steps, masking).bound.mean())


def slope(world: oracle.World, head: Head, y: Tensor, steps: int, powers: list[float], level: int) -> float:
    moved = [[p * (2.718281828**d if n == level else 1) for n, p in enumerate(powers)] for d in (0.01, -0.01)]
    return (bound(world, head, y, steps, moved[0]) - bound(world, head, y, steps, moved[1])) / 0.02


@pytest.mark.parametrize("head", [FactoredHead(), ChainHead()], ids=lambda head: head.name)
@pytest.mark.parametrize(
    ("world", "powers"), [(PAIR, [0.6, 1.7]), (FOUR, [0.6, 1.7, 1.2, 0.9])], ids=["pair", "four digits"]
)
def test_the_gradient_is_that_of_the_exact_bound(world: oracle.World, powers: list[float], head: Head) -> None:
    schedule = Schedule.learned(world.canvas, powers)
    model = digit_oracle.DigitTable(world.canvas, head)
    y = world.y[5:6].expand(1000, -1)
    gradients, values = [], []
    for seed in range(40):
        schedule.log_powers.grad = None
        loss = learned_powers_loss(model, world.canvas, y, schedule, 3, generator_of(seed))
        values.append(loss.detach().mean())
        loss.mean().backward()  # type: ignore[no-untyped-call]
        assert schedule.log_powers.grad is not None
        gradients.append(schedule.log_powers.grad.clone())
    oracle.assert_mean(torch.stack(values).double(), bound(world, head, world.y[5:6], 3, powers))
    for level, found in enumerate(torch.stack(gradients).double().unbind(1)):
        oracle.assert_mean(found, slope(world, head, world.y[5:6], 3, powers, level))


@pytest.mark.parametrize("steps", [2, 4])
def test_what_is_learned_is_below_the_fixed_schedule(steps: int) -> None:
    schedule = Schedule.learned(PAIR.canvas)
    model = digit_oracle.DigitTable(PAIR.canvas, FactoredHead())
    optimizer = torch.optim.Adam([schedule.log_powers], 0.05)
    for step in range(150):
        optimizer.zero_grad()
        rows = PAIR.y[torch.randint(len(PAIR.y), (64,), generator=generator_of(step))]
        learned_powers_loss(model, PAIR.canvas, rows, schedule, steps, generator_of(1000 + step)).mean().backward()
        optimizer.step()
    fixed = bound(PAIR, FactoredHead(), PAIR.y, steps, [1.0, 1.0])
    assert bound(PAIR, FactoredHead(), PAIR.y, steps, schedule.values()) < fixed - 0.005


def test_every_modality_and_level_has_a_power() -> None:
    schedule = Schedule.learned(TWO_SPANS)
    assert isinstance(schedule, LearnedPowers)
    with torch.no_grad():
        schedule.log_powers.copy_(torch.tensor([0.5, 2.0, 3.0]).log())
    alpha = Schedule.levels(schedule.values(), TWO_SPANS).alpha(torch.tensor([0.5]))
    assert alpha.tolist() == pytest.approx([1 - 0.5**p for p in (0.5, 0.5, 2, 3)])
    assert schedule.alpha(torch.tensor([0.5])).tolist() == pytest.approx(alpha.tolist())
    assert Schedule.learned(TWO_SPANS, [2.0, 3.0]).values() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"level powers \[1.0, 2.0, 3.0, 4.0\].*each span in turn"):
        Schedule.learned(TWO_SPANS, [1.0, 2.0, 3.0, 4.0])


def test_what_is_given_or_absent_is_neither_drawn_nor_scored() -> None:
    y, given = PAIR.y[:500].clone(), torch.zeros(4, dtype=torch.bool)
    given[0], absent = True, torch.tensor([False, False, False, True])
    y[:, 3] = MASK_ID
    seen: list[Tensor] = []

    class Watched(digit_oracle.DigitTable):
        def __call__(self, y: Tensor, canvas: Canvas, cond: object = None) -> Tensor:
            seen.append(y)
            return super().__call__(y, canvas, None)

    rows = Rows.of(PAIR.canvas, y, given, absent)
    learned_powers_loss(Watched(PAIR.canvas, FactoredHead()), PAIR.canvas, rows, Schedule.learned(PAIR.canvas), 2)
    states = torch.cat(seen)
    assert bool((states[:, 0] >= 0).all())
    assert bool((states[:, 3] < 0).all())
    assert set((states[:, 1] < 0).tolist()) == {True, False}


def test_one_step_has_nothing_to_learn() -> None:
    schedule = Schedule.learned(PAIR.canvas)
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        learned_powers_loss(digit_oracle.DigitTable(PAIR.canvas, FactoredHead()), PAIR.canvas, PAIR.y, schedule, 1)
