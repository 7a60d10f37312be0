"""Adaptive samplers: by distributions alone, one unit at a time, they are exact."""

from __future__ import annotations

import oracle
import pytest
import torch

from mmprime.engine import Schedule, sample
from mmprime.engine.samplers import (
    Blocks,
    Confidence,
    Entropy,
    EntropyBounded,
    Factor,
    Klass,
    Margin,
    Moment,
    Threshold,
)

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
PERFECT, WRONG = oracle.perfect(WORLD), oracle.wrong(WORLD)
BATCH = 4000
UNITS = {"digit": 6, "token": 3}
EVERY = {
    "confidence": Confidence,
    "margin": Margin,
    "entropy": Entropy,
    "moment": Moment,
    "entropy_bounded": EntropyBounded,
    "threshold": Threshold,
    "factor": Factor,
    "klass": Klass,
    "blocks": lambda unit: Blocks(size=2, unit=unit),
}
EXACT = {
    "margin": lambda unit: Margin(UNITS[unit], unit=unit),
    "entropy": lambda unit: Entropy(UNITS[unit], unit=unit),
    "moment": lambda unit: Moment(UNITS[unit], power=1.0, unit=unit),
    "entropy_bounded": lambda unit: EntropyBounded(0.0, unit=unit),
    "blocks": lambda unit: Blocks(0.0, 2, unit=unit),
}


def drawn(record) -> torch.Tensor:
    return oracle.counts_of(WORLD.index(record.y), len(WORLD.p))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", EXACT)
def test_by_distributions_alone_one_unit_at_a_time_is_exact(name, unit):
    record = sample(PERFECT, CANVAS, EXACT[name](unit), batch=BATCH, generator=1)
    oracle.assert_distribution(drawn(record), WORLD.p)


def test_choosing_by_what_was_drawn_is_not_exact():
    """MaskGIT prefers likely draws: its distribution is sharper than the data's, and the test above would see it."""
    record = sample(PERFECT, CANVAS, Confidence(6, noise=0.0, pace=Schedule.linear()), batch=BATCH, generator=2)
    share = drawn(record).double() / BATCH
    assert 0.5 * float((share - WORLD.p).abs().sum()) > 0.05
    assert float((share * WORLD.p.log()).sum()) > float((WORLD.p * WORLD.p.log()).sum())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", EVERY)
def test_every_sampler_fills_the_canvas_within_its_steps_and_keeps_what_is_given(name, unit):
    given = torch.where(torch.tensor([True, True, False, False, True, False]), WORLD.y[13], -1).expand(50, -1)
    record = sample(WRONG, CANVAS, EVERY[name](unit=unit), given=given, generator=3, trace=True)
    assert (record.y >= 0).all()
    WORLD.index(record.y)  # every row is a configuration: no code that does not exist
    assert torch.equal(record.y[given >= 0], given[given >= 0])
    assert torch.equal(record.rank == 0, given >= 0)
    assert torch.equal(record.nfe, record.rank.amax(-1))  # no step without a reveal
    assert int(record.nfe.max()) <= 3
    assert torch.equal(record.trace.y[-1], record.y)
    text = CANVAS.view(record.rank, "text")
    assert (text[..., 0] <= text[..., 1]).all()  # coarse before fine


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", [Confidence, Margin, Entropy, Moment])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_budget_is_kept(kind, steps, unit):
    record = sample(WRONG, CANVAS, kind(steps, unit=unit), batch=20, generator=4)
    assert (record.nfe == steps).all()
    assert (record.y >= 0).all()


def test_one_step_draws_from_the_marginals():
    record = sample(PERFECT, CANVAS, Entropy(1), batch=BATCH, generator=5)
    codes = [span.codec.decode(CANVAS.view(record.y, span.name)) for span in CANVAS.spans]
    first = WORLD.p.view(3, 3, 5).sum((1, 2))
    oracle.assert_distribution(oracle.counts_of(codes[0][:, 0], 3), first)


def test_a_sample_depends_on_its_own_stream_only():
    for sampler in (Confidence(3), Klass(), Moment(3)):
        streams = lambda order: [torch.Generator().manual_seed(100 + s) for s in order]  # noqa: E731
        order = [4, 0, 7, 2, 1, 6, 3, 5]
        straight = sample(WRONG, CANVAS, sampler, batch=8, generator=streams(range(8))).y
        shuffled = sample(WRONG, CANVAS, sampler, batch=8, generator=streams(order)).y
        assert torch.equal(shuffled, straight[order])
        alone = sample(WRONG, CANVAS, sampler, batch=1, generator=streams([4])).y
        assert torch.equal(alone[0], straight[4])


def test_absent_digits_stay_masked():
    record = sample(WRONG, CANVAS, Margin(4), batch=5, generator=6, absent=CANVAS.mask("image"))
    assert (record.y[:, CANVAS.mask("image")] == -1).all()
    assert (record.rank[:, CANVAS.mask("image")] == -1).all()
    assert (record.y[:, CANVAS.mask("text")] >= 0).all()
