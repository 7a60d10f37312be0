"""Samplers that mask again: their chances, what they keep and how they end."""

from __future__ import annotations

import oracle
import oracle_walk
import pytest
import torch
from engine_world import line_view

from mmprime.engine import sample
from mmprime.engine.samplers import (
    PathPlanning,
    ReMDM,
)

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
PERFECT, WRONG = oracle.perfect(WORLD), oracle.wrong(WORLD)
BATCH = 4000


def drawn(record) -> torch.Tensor:
    return oracle.counts_of(WORLD.index(record.y), len(WORLD.p))


@pytest.mark.parametrize("kind", ["cap", "rescale", "conf", "loop"])
def test_remasking_ends_whole_and_leaves_what_is_given(kind):
    given = torch.where(torch.tensor([True, True, False, False, True, False]), WORLD.y[13], -1).expand(60, -1)
    record = sample(WRONG, CANVAS, ReMDM(8, kind, eta=0.5), given=given, generator=9, trace=True)
    WORLD.index(record.y)
    assert torch.equal(record.y[given >= 0], given[given >= 0])
    assert len(record.trace.y) == 8
    masked = (record.trace.y < 0).sum(-1)
    assert (masked[1:] > masked[:-1]).any()  # something was masked again
    assert (record.nfe <= 8).all()


@pytest.mark.parametrize(
    ("kind", "eta", "noise", "reveal", "remask"),
    [
        ("rescale", 0.5, 0.3, True, [False, False]),  # σ = η σ_max = 0.25, σ_max = min(1, (1 - 0.75) / 0.5)
        ("rescale", 0.5, 0.2, True, [True, True]),
        ("cap", 0.25, 0.6, True, [False, False]),  # a masked one comes with chance (0.75 - 0.75 · 0.5) / 0.5 = 0.75
        ("cap", 0.25, 0.8, False, [False, False]),
        ("conf", 0.0, 0.25, True, [True, False]),  # 0.5 · softmax(-0.1, -0.9) = 0.345, 0.155
    ],
)
def test_the_chances_of_remasking(kind, eta, noise, reveal, remask):
    """Step 3 of 4, two tokens masked, two unmasked with confidence 0.1 and 0.9: α from 0.5 to 0.75."""
    memory = {"confidence": torch.tensor([[0.0, 0.0, 0.1, 0.9]]).double()}
    masked = [True, True, False, False]
    seen = line_view([[0.5, 0.5, 0.0, 0.0]], step=3, total=4, masked=masked, noise=noise, memory=memory)
    chosen = ReMDM(4, kind, eta=eta).select(seen)
    assert chosen.reveal.tolist() == [[reveal, reveal, False, False]]
    assert chosen.remask.tolist() == [[False, False, *remask]]


@pytest.mark.parametrize("kind", ["cap", "rescale"])
def test_remasking_keeps_the_share_of_visible_tokens(kind):
    """A token is visible after step k with chance α_k, whatever η."""
    sampler = ReMDM(5, kind, eta=0.6)
    record = sample(PERFECT, CANVAS, sampler, batch=BATCH, generator=10, trace=True)
    first = record.trace.y[..., CANVAS.digit_of == 0] >= 0
    for step, share in enumerate(first.double().mean((1, 2)).tolist(), 1):
        assert share == pytest.approx(sampler.alpha(step), abs=4 * (0.25 / (3 * BATCH)) ** 0.5)


def test_without_remasking_it_is_ancestral_sampling():
    nll, _ = oracle_walk.likelihood_of(WRONG, CANVAS, WORLD.y, "token_synchronous", steps=3)
    record = sample(WRONG, CANVAS, ReMDM(3, "cap", eta=0.0), batch=BATCH, generator=11)
    oracle.assert_distribution(drawn(record), (-nll).exp())


def test_path_planning_keeps_the_most_credible():
    sampler = PathPlanning(4, eta=0.5)
    seen = line_view([[-0.5, -0.4, -0.6, -3.0]], step=2, total=4, masked=[True, True, False, False])
    choice = sampler.select(seen)  # scores -0.5, -0.4, -0.3, -1.5: two are kept
    assert choice.reveal.tolist() == [[False, True, False, False]]
    assert choice.remask.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_path_planning_reveals_a_growing_share_and_ends_whole(eta):
    record = sample(WRONG, CANVAS, PathPlanning(3, eta), batch=60, generator=13, trace=True)
    WORLD.index(record.y)
    visible = (record.trace.y[..., CANVAS.digit_of == 0] >= 0).sum(-1)
    assert visible.float().mean(1).tolist() == [1, 2, 3]
    taken_back = ((record.trace.y[:-1] >= 0) & (record.trace.y[1:] < 0)).any()
    assert bool(taken_back) == (eta > 0)


def test_many_remasking_steps_of_the_perfect_denoiser_come_near_the_data():
    def distance(sampler):
        return float((drawn(sample(PERFECT, CANVAS, sampler, batch=BATCH, generator=12)) / BATCH - WORLD.p).abs().sum())

    assert distance(ReMDM(24, "rescale", eta=0.3)) < 0.6 * distance(ReMDM(1, "rescale", eta=0.3))
