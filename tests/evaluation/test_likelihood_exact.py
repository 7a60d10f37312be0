"""On a world small enough to enumerate every likelihood number meets its exact value within three standard errors."""

from __future__ import annotations

import math
from pathlib import Path

import oracle
import oracle_walk
import pytest
import torch

from mmprime.cli.evaluations import likelihood as command
from mmprime.engine import MASKINGS, Canvas, Codec, Schedule, Span, masking_of, sampler_of
from mmprime.engine.masking import IndependentMasking
from mmprime.engine.schedule import LevelPowers
from mmprime.evaluation.datasets import load_scored
from mmprime.evaluation.likelihood import Effort, ScoredRows, estimate, measures, ratio
from mmprime.evaluation.names import ESTIMATORS, ORDERS
from mmprime.evaluation.quantities import Bounds, Quantity, fixed_rank
from mmprime.evaluation.tasks import choose_tasks, evaluation_tasks
from mmprime.generation.pipeline import from_pretrained

WORLD = oracle.mixed_world()
WRONG = oracle.wrong(WORLD)  # a perfect denoiser would hide mistakes
TASKS = evaluation_tasks(WORLD.canvas)
ROWS = WORLD.y[torch.tensor([0, 13, 22, 37, 44])]
REPEATS = 2000
POWERS = (1.0, 1.6)
NESTED = masking_of("nested")


def exact_bound(task, masking, steps=None):
    """Expected NELBO of the rows, (5,) nats."""
    given = task.given.nonzero()[:, 0].tolist()
    powers = masking.schedule.powers if masking.schedule else ()
    schedule = Schedule.levels(powers, WORLD.canvas) if powers else None
    rates = [powers[int(digit)] for digit in WORLD.canvas.digit_of] if powers else None
    return oracle_walk.likelihood_of(WRONG, WORLD.canvas, ROWS, masking.name, schedule, steps, given, rates=rates)[1]


def quantities():
    by_time = [estimator == "time" for estimator in ESTIMATORS]
    cells = [Quantity("nelbo", MASKINGS[name](by_time=way)) for name in MASKINGS for way in by_time]
    levels = [IndependentMasking(LevelPowers(POWERS), way) for way in by_time]
    cells += [*(Quantity("nelbo", masking) for masking in levels), Quantity("nelbo", levels[0], 2)]
    finite = [("nested", 1), ("nested", 3), ("independent", 2)]
    return [*cells, *(Quantity("nelbo", masking_of(name), steps) for name, steps in finite)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("quantity", quantities(), ids=lambda quantity: quantity.name("x"))
def test_each_bound_meets_its_exact_value(quantity, task):
    exact = float(exact_bound(task, quantity.masking, quantity.steps).mean()) / task.num_tokens(WORLD.canvas)
    repeated = ScoredRows(ROWS.repeat(REPEATS, 1))
    nats = estimate(WRONG, WORLD.canvas, repeated, task, quantity, Effort(seed=5, batch=500)).nats
    nats = nats.view(REPEATS, len(ROWS)).mean(1)  # every repetition holds each row once, so only the draws vary
    value, error = ratio(nats, torch.full_like(nats, task.num_tokens(WORLD.canvas)))
    assert error < (0.15 if quantity.masking.by_time else 0.05)  # else the next line would say little
    assert abs(value - exact) < 3 * error + 1e-6


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_fixed_order_has_its_exact_likelihood(order, task):
    rank = fixed_rank(WORLD.canvas, order, task.given, task.absent)
    found = estimate(WRONG, WORLD.canvas, ScoredRows(ROWS), task, Quantity("nll", NESTED, order=order), Effort(batch=2))
    exact = -oracle.plan_log_likelihood(WRONG, WORLD.canvas, ROWS, rank[0].tolist())
    torch.testing.assert_close(found.nats, exact, rtol=1e-5, atol=1e-5)
    assert found.nfe == int(rank.max())


def test_orders_show_what_their_names_say():
    canvas = Canvas([Span("text", 2, Codec.base(4, 2)), Span("image", (2, 2), Codec.base(4, 2))])
    everything = choose_tasks(evaluation_tasks(canvas), ["joint"])[0]
    masks = everything.given, everything.absent
    assert fixed_rank(canvas, "raster", *masks).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]]
    assert fixed_rank(canvas, "reversed", *masks).tolist() == [[6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1]]
    assert fixed_rank(canvas, "coarse_first", *masks).tolist() == [[1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12]]
    image = choose_tasks(evaluation_tasks(canvas), ["image|text"])[0]
    halton = fixed_rank(canvas, "halton", image.given, image.absent)[0]
    assert halton[:4].tolist() == [0, 0, 0, 0]  # what is given has rank 0
    assert sorted(halton[4:].tolist()) == [1, 1, 2, 2, 3, 3, 4, 4]
    with pytest.raises(ValueError, match="unknown order 'spiral'"):
        fixed_rank(canvas, "spiral", *masks)


def test_a_planned_sampler_is_scored_by_its_own_plans():
    """The ancestral sampler's bound is the T-step bound; one that follows no plan is refused."""
    sampler = sampler_of("ancestral", {"masking": "nested"})
    quantity = Bounds(NESTED, (), (3,), sampler=sampler).quantities()[-2]
    task = TASKS[0]
    assert quantity.name(task.name) == f"nelbo {task.name} T=3 sampler ancestral masking=nested"
    rows = ScoredRows(ROWS.repeat(REPEATS, 1))
    found = estimate(WRONG, WORLD.canvas, rows, task, quantity, Effort(batch=10_000))
    for column, value in zip(found.nats.view(REPEATS, 5).T, exact_bound(task, NESTED, 3).tolist()):
        oracle.assert_mean(column, value)
    assert found.nfe == 1
    budget = Bounds(NESTED, (), (8, 4), sampler=sampler_of("coarse_first", {"budget": "7,1"}))
    with pytest.raises(ValueError, match=r"budget=7,1 divides 4 steps into 3.5, 0.5"):
        next(measures(WRONG, WORLD.canvas, ScoredRows(ROWS), budget))
    with pytest.raises(ValueError, match=r"sampler 'p2' follows no plan.*those that do are ancestral, first_hitting"):
        Bounds(NESTED, sampler=sampler_of("p2")).quantities()


def test_a_box_is_scored_given_all_the_rest():
    canvas = Canvas([Span("text", 2, Codec.base(4, 2)), Span("image", (2, 3), Codec.base(4, 2))])
    task = evaluation_tasks(canvas, [(1, 0, 3, 1)])[-1]
    assert task.name == "image[1,0,3,1]|rest"
    assert (~task.given).nonzero()[:, 0].tolist() == [6, 7, 8, 9]
    assert task.num_tokens(canvas) == 2
    asked = command.task_names("image|text, image[1,0,3,1]|rest,joint")  # commas inside brackets do not separate
    assert [each.name for each in choose_tasks(evaluation_tasks(canvas, [(1, 0, 3, 1)]), asked)] == asked
    with pytest.raises(ValueError, match="outside the 3 x 2 grid"):
        evaluation_tasks(canvas, [(1, 0, 4, 1)])


def test_precision_stops_at_the_error_asked_for():
    data = ScoredRows(ROWS.repeat(40, 1))
    task, quantity = TASKS[-1], Quantity("nelbo", NESTED)
    once = estimate(WRONG, WORLD.canvas, data, task, quantity, Effort(batch=32))
    error = ratio(once.nats, torch.full_like(once.nats, 3))[1]
    early = estimate(WRONG, WORLD.canvas, data, task, quantity, Effort(batch=32, precision=1.5 * error))
    assert early.nfe == 1
    assert 32 <= len(early.nats) < len(data.y)
    assert ratio(early.nats, torch.full_like(early.nats, 3))[1] <= 1.5 * error
    late = estimate(WRONG, WORLD.canvas, data, task, quantity, Effort(batch=32, precision=0.8 * error))
    assert len(late.nats) == len(data.y)
    assert late.nfe > 1
    assert ratio(late.nats, torch.full_like(late.nats, 3))[1] <= 0.8 * error


@pytest.mark.parametrize("bad", [{"samples": 0}, {"batch": 0}, {"precision": 0.0}, {"precision": math.nan}])
def test_effort_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        Effort(**bad)


def test_unknown_names_are_quoted():
    with pytest.raises(ValueError, match="unknown estimator 'guess'; there are count, time"):
        Bounds("nested", estimators=["guess"]).quantities()
    with pytest.raises(ValueError, match="unknown order 'spiral'"):
        Bounds("nested", orders=["spiral"]).quantities()


def test_the_joint_loss_stands_in_no_unit_of_likelihood():
    rows = list(measures(WRONG, WORLD.canvas, ScoredRows(ROWS), Bounds("nested", ["nested"])))
    joint = [row for row in rows if row.metric.startswith("joint_loss")]
    assert {row.unit for row in joint} == {"nats/token, no bound"}
    assert len(joint) == len(TASKS)


def test_both_estimators_agree_on_the_shipped_model():
    root = Path(__file__).resolve().parents[2] / "assets"
    pipe = from_pretrained(root / "models/emoji_t2i")
    scored = load_scored(pipe, root / "emoji_codes", "val_vendor", 48)
    task = choose_tasks(evaluation_tasks(pipe.canvas), ["image|text"])[0]
    means, errors = [], []
    for by_time in (False, True):
        quantity = Quantity("nelbo", MASKINGS[pipe.card.masking](by_time=by_time))
        value, error = estimate(pipe.model, pipe.canvas, scored, task, quantity, Effort(samples=2)).per_token
        means.append(value)
        errors.append(error)
    assert abs(means[0] - means[1]) < 3 * math.hypot(*errors)


def test_level_powers_are_named():
    found = Bounds("independent", ["independent"], [4], (), ["count", "time"], level_powers=[1.0, 2.5]).quantities()
    assert [quantity.name("text") for quantity in found if quantity.masking.schedule] == [
        "nelbo text continuous independent levels 1,2.5",
        "nelbo text continuous independent levels 1,2.5 by time",
        "nelbo text T=4 independent levels 1,2.5",
    ]
    assert len([quantity for quantity in found if not quantity.masking.schedule]) == 4  # what there is without them
