"""Steering by particles, against worlds whose steered distribution can be written down."""

from __future__ import annotations

import oracle
import pytest
import torch
from engine_world import count_plan
from torch import Tensor

from mmprime.engine import Guidance, Plan, Steering, sample, steer

WORLD = oracle.pair_world()
CANVAS, MODEL = WORLD.canvas, oracle.perfect(WORLD)
REWARD = torch.randn(len(WORLD.p), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SCALE, BATCH = 1.5, 1000
WEIGHT = (SCALE * REWARD).exp()
TARGET = WORLD.p * WEIGHT / (WORLD.p * WEIGHT).sum()


def score(y: Tensor) -> Tensor:
    return REWARD[WORLD.index(y)]


def counts(y: Tensor) -> Tensor:
    return oracle.counts_of(WORLD.index(y), len(WORLD.p))


@pytest.mark.parametrize("every", [1, 3])
def test_many_particles_have_the_target_distribution(every: int) -> None:
    plan = Plan.first_hitting(CANVAS, BATCH, 1)
    record = steer(MODEL, CANVAS, plan, Steering(score, SCALE, 48, every), generator=2)
    oracle.assert_distribution(counts(record.y), TARGET)
    assert torch.equal(record.rank, plan.rank)


def test_two_particles_weighed_once_at_the_end() -> None:
    """P(x) = 2 p(x) Σ_x' p(x') w(x) / (w(x) + w(x')): between the model's distribution and the target."""
    plan = Plan.first_hitting(CANVAS, 3 * BATCH, 1)
    record = steer(MODEL, CANVAS, plan, Steering(score, SCALE, 2, 4), generator=2)
    probs = 2 * WORLD.p * (WORLD.p * WEIGHT[:, None] / (WEIGHT[:, None] + WEIGHT)).sum(-1)
    oracle.assert_distribution(counts(record.y), probs)
    assert record.nfe.tolist() == [8] * 3 * BATCH


@pytest.mark.parametrize(("particles", "scale"), [(1, 5.0), (4, 0.0)])
def test_one_particle_or_scale_zero_is_the_models_own_distribution(particles: int, scale: float) -> None:
    plan = Plan.first_hitting(CANVAS, BATCH, 1)
    record = steer(MODEL, CANVAS, plan, Steering(score, scale, particles, 1), generator=2)
    oracle.assert_distribution(counts(record.y), WORLD.p)


def test_nfe_counts_all_particles_and_drafts() -> None:
    model = oracle.perfect(WORLD)
    plan = Plan.first_hitting(CANVAS, 5, 1)  # four steps
    record = steer(model, CANVAS, plan, Steering(score, SCALE, 3, 2), generator=2)
    assert record.nfe.tolist() == [3 * (4 + 1)] * 5
    assert model.forwarded == 5 * 3 * 5


def test_a_guided_run_is_steered_with_its_guidance() -> None:
    """The condition stays what was given at the start, and drafts are guided too: three passes of two branches."""
    world = oracle.mixed_world()
    model, text = oracle.wrong(world), world.canvas.mask("text")
    plan = Plan.first_hitting(world.canvas, 6, 1, given=text)
    start = torch.where(text, world.y[22], -1).expand(6, -1)

    def image_of(y: Tensor) -> Tensor:
        assert bool((y[:, :4] == start[0, :4]).all())
        return y[:, 4].double()

    guidance = Guidance(2.0, "constant")
    record = steer(model, world.canvas, plan, Steering(image_of, 2.0, 4, 1), start, generator=2, guidance=guidance)
    assert record.nfe.tolist() == [4 * 2 * 3] * 6
    assert model.forwarded == 6 * 4 * 2 * 3


def test_steered_samples_do_not_depend_on_the_batch() -> None:
    plan = Plan.first_hitting(CANVAS, 8, 7)
    whole = steer(MODEL, CANVAS, plan, Steering(score, SCALE, 3, 1), generator=8)
    part = steer(MODEL, CANVAS, Plan(plan.rank[:3], plan.num_steps), Steering(score, SCALE, 3, 1), generator=8)
    assert torch.equal(part.y, whole.y[:3])


def test_what_is_absent_stays_masked() -> None:
    absent = CANVAS.token_of == 1
    plan = count_plan(CANVAS, 50, 1, absent=absent)
    record = steer(MODEL, CANVAS, plan, Steering(lambda y: y[:, 0].double(), 8.0, 4, 1), generator=2)
    assert bool((record.y[:, absent] < 0).all())
    assert float(record.y[:, 0].double().mean()) > float(
        sample(MODEL, CANVAS, plan, generator=2).y[:, 0].double().mean()
    )


def test_refusals() -> None:
    plan = Plan.first_hitting(CANVAS, 2, 1)
    with pytest.raises(ValueError, match="particles and every must be at least 1, got 0 and 4"):
        steer(MODEL, CANVAS, plan, Steering(score, SCALE, particles=0))
    for bad in (lambda y: y.double(), lambda y: torch.full((len(y),), torch.nan)):
        with pytest.raises(ValueError, match="the score must give 8 finite numbers, one a row"):
            steer(MODEL, CANVAS, plan, Steering(bad, SCALE))
