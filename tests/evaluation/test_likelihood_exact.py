"""On a world small enough to enumerate every likelihood number meets its exact value within three standard errors."""

from __future__ import annotations

import math
from pathlib import Path

import oracle
import pytest
import torch

from mmprime.cli.evaluations import likelihood as command
from mmprime.engine import LAWS, Canvas, Codec, Schedule, Span
from mmprime.evaluation.datasets import load_scored
from mmprime.evaluation.likelihood import Effort, choose, estimate, measures, ratio, tasks
from mmprime.evaluation.quantities import ESTIMATORS, ORDERS, Quantity, fixed_rank, list_quantities
from mmprime.generation.pipeline import from_pretrained

WORLD = oracle.mixed_world()
WRONG = oracle.wrong(WORLD)  # a perfect denoiser would hide mistakes
TASKS = tasks(WORLD.canvas)
ROWS = WORLD.y[torch.tensor([0, 13, 22, 37, 44])]
REPEATS = 2000
POWERS = (1.0, 1.6)


def exact_bound(task, law, steps=None, powers=()):
    """Expected NELBO of the rows, (5,) nats."""
    given = task.given.nonzero()[:, 0].tolist()
    schedule = Schedule.places(powers, WORLD.canvas) if powers else None
    rates = [powers[int(digit)] for digit in WORLD.canvas.digit_of] if powers else None
    return oracle.likelihood_of(WRONG, WORLD.canvas, ROWS, law, schedule, steps, given, rates=rates)[1]


def quantities():
    cells = [Quantity("nelbo", law, None, estimator) for law in LAWS for estimator in ESTIMATORS]
    cells += [Quantity("nelbo", "independent", None, way, place_powers=POWERS) for way in ESTIMATORS]
    cells += [Quantity("nelbo", "independent", 2, place_powers=POWERS)]
    return [*cells, Quantity("nelbo", "nested", 1), Quantity("nelbo", "nested", 3), Quantity("nelbo", "independent", 2)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("quantity", quantities(), ids=lambda quantity: quantity.name("x"))
def test_each_bound_meets_its_exact_value(quantity, task):
    exact = float(exact_bound(task, quantity.law, quantity.steps, quantity.place_powers).mean()) / task.num_tokens(
        WORLD.canvas
    )
    repeated = ROWS.repeat(REPEATS, 1)
    nats = estimate(WRONG, WORLD.canvas, repeated, task, quantity, Effort(seed=5, batch=500)).nats
    nats = nats.view(REPEATS, len(ROWS)).mean(1)  # every repetition holds each row once, so only the draws vary
    value, error = ratio(nats, torch.full_like(nats, task.num_tokens(WORLD.canvas)))
    assert error < (0.15 if quantity.estimator == "time" else 0.05)  # else the next line would say little
    assert abs(value - exact) < 3 * error + 1e-6


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_fixed_order_has_its_exact_likelihood(order, task):
    rank = fixed_rank(WORLD.canvas, order, task)
    found = estimate(WRONG, WORLD.canvas, ROWS, task, Quantity("nll", order=order), Effort(batch=2))
    exact = -oracle.plan_log_likelihood(WRONG, WORLD.canvas, ROWS, rank[0].tolist())
    torch.testing.assert_close(found.nats, exact, rtol=1e-5, atol=1e-5)
    assert found.nfe == int(rank.max())


def test_orders_show_what_their_names_say():
    canvas = Canvas([Span("text", 2, Codec.base(4, 2)), Span("image", (2, 2), Codec.base(4, 2))])
    everything = choose(tasks(canvas), ["joint"])[0]
    assert fixed_rank(canvas, "raster", everything).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]]
    assert fixed_rank(canvas, "reversed", everything).tolist() == [[6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1]]
    assert fixed_rank(canvas, "coarse_first", everything).tolist() == [[1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12]]
    halton = fixed_rank(canvas, "halton", choose(tasks(canvas), ["image|text"])[0])[0]
    assert halton[:4].tolist() == [0, 0, 0, 0]  # what is given has rank 0
    assert sorted(halton[4:].tolist()) == [1, 1, 2, 2, 3, 3, 4, 4]
    with pytest.raises(ValueError, match="unknown order 'spiral'"):
        fixed_rank(canvas, "spiral", everything)


def test_a_box_is_scored_given_all_the_rest():
    canvas = Canvas([Span("text", 2, Codec.base(4, 2)), Span("image", (2, 3), Codec.base(4, 2))])
    task = tasks(canvas, [(1, 0, 3, 1)])[-1]
    assert task.name == "image[1,0,3,1]|rest"
    assert (~task.given).nonzero()[:, 0].tolist() == [6, 7, 8, 9]
    assert task.num_tokens(canvas) == 2
    asked = command.task_names("image|text, image[1,0,3,1]|rest,joint")  # commas inside brackets do not separate
    assert [each.name for each in choose(tasks(canvas, [(1, 0, 3, 1)]), asked)] == asked
    with pytest.raises(ValueError, match="outside the 3 x 2 grid"):
        tasks(canvas, [(1, 0, 4, 1)])


def test_precision_stops_at_the_error_asked_for():
    data = ROWS.repeat(40, 1)
    task, quantity = TASKS[-1], Quantity("nelbo", "nested")
    once = estimate(WRONG, WORLD.canvas, data, task, quantity, Effort(batch=32))
    error = ratio(once.nats, torch.full_like(once.nats, 3))[1]
    early = estimate(WRONG, WORLD.canvas, data, task, quantity, Effort(batch=32, precision=1.5 * error))
    assert early.nfe == 1
    assert 32 <= len(early.nats) < len(data)
    assert ratio(early.nats, torch.full_like(early.nats, 3))[1] <= 1.5 * error
    late = estimate(WRONG, WORLD.canvas, data, task, quantity, Effort(batch=32, precision=0.8 * error))
    assert len(late.nats) == len(data)
    assert late.nfe > 1
    assert ratio(late.nats, torch.full_like(late.nats, 3))[1] <= 0.8 * error


@pytest.mark.parametrize("bad", [{"samples": 0}, {"batch": 0}, {"precision": 0.0}, {"precision": math.nan}])
def test_effort_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        Effort(**bad)


def test_unknown_names_are_quoted():
    with pytest.raises(ValueError, match="unknown estimator 'guess'; there are count, time"):
        list_quantities("nested", estimators=["guess"])
    with pytest.raises(ValueError, match="unknown order 'spiral'"):
        list_quantities("nested", orders=["spiral"])


def test_the_joint_loss_stands_in_no_unit_of_likelihood():
    rows = list(measures(WRONG, WORLD.canvas, ROWS, "nested", laws=["nested"], effort=Effort()))
    joint = [row for row in rows if row.metric.startswith("joint_loss")]
    assert {row.unit for row in joint} == {"nats/token, no bound"}
    assert len(joint) == len(TASKS)


def test_both_estimators_agree_on_the_shipped_model():
    root = Path(__file__).resolve().parents[2] / "assets"
    pipe = from_pretrained(root / "models/emoji_t2i")
    scored = load_scored(pipe, root / "emoji_codes", "val_vendor", 48)
    task = choose(tasks(pipe.canvas), ["image|text"])[0]
    means, errors = [], []
    for estimator in ESTIMATORS:
        nats = estimate(
            pipe.model, pipe.canvas, scored.y0, task, Quantity("nelbo", pipe.law, None, estimator), Effort(samples=2)
        ).nats
        value, error = ratio(nats, torch.full_like(nats, task.num_tokens(pipe.canvas)))
        means.append(value)
        errors.append(error)
    assert abs(means[0] - means[1]) < 3 * math.hypot(*errors)


def test_place_powers_are_named():
    found = list_quantities("independent", ["independent"], [4], ["count", "time"], place_powers=[1.0, 2.5])
    names = [quantity.name("text") for quantity in found if quantity.place_powers]
    assert names == [
        "nelbo text continuous independent places 1,2.5",
        "nelbo text continuous independent places 1,2.5 by time",
        "nelbo text T=4 independent places 1,2.5",
    ]
    assert len([quantity for quantity in found if not quantity.place_powers]) == 4  # what there is without them
