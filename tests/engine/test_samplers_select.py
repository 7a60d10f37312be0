"""Each adaptive sampler selects by its formula, and refuses options that make no sense."""

from __future__ import annotations

import math
from dataclasses import replace

import oracle
import pytest
import torch
from engine_world import line_view, start_of

from mmprime.engine import Canvas, Codec, Schedule, Span, sample
from mmprime.engine.samplers import (
    Blocks,
    Confidence,
    Entropy,
    EntropyBounded,
    EntropyBudget,
    Factor,
    Klass,
    Margin,
    Moment,
    PathPlanning,
    ReMDM,
    Threshold,
)

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
PERFECT, WRONG = oracle.perfect(WORLD), oracle.wrong(WORLD)
BATCH = 4000


def test_entropy_bounded_takes_the_largest_set_under_its_bound():
    nats = [0.5, 0.05, 0.04, 0.3]
    for gamma, chosen in ((0.0, [2]), (0.04, [1, 2]), (0.09, [1, 2, 3]), (0.38, [1, 2, 3]), (0.39, [0, 1, 2, 3])):
        reveal = EntropyBounded(gamma).select(line_view([nats])).reveal
        assert reveal[0].nonzero()[:, 0].tolist() == chosen
    certain = EntropyBounded(0.0).select(line_view([[0.0, 0.7, 0.0, 0.2]])).reveal
    assert certain[0].tolist() == [True, False, True, True]  # what is certain costs nothing: one uncertain beside it


def test_threshold_takes_all_that_is_sure_and_at_least_the_best():
    assert Threshold(0.9).select(line_view([[0.95, 0.5, 0.91]])).reveal.tolist() == [[True, False, True]]
    assert Threshold(0.99).select(line_view([[0.95, 0.5, 0.91]])).reveal.tolist() == [[True, False, False]]
    masked = [False, True, True]
    assert Threshold(0.99).select(line_view([[0.0, 0.5, 0.91]], masked=masked)).reveal.tolist() == [
        [False, False, True]
    ]


def test_factor_takes_the_largest_k_of_its_rule():
    sampler = Factor(0.25)  # (k + 1)(1 - p_k): 0.04, 0.18, 0.6
    assert sampler.select(line_view([[0.94, 0.98, 0.85]])).reveal.tolist() == [[True, True, False]]
    assert Factor(0.01).select(line_view([[0.94, 0.98, 0.85]])).reveal.tolist() == [[False, True, False]]
    assert Factor(0.15).select(line_view([[0.94, 0.98, 0.85]])).reveal.tolist() == [[False, True, False]]


def test_the_last_step_takes_all_however_deep():
    """Four masked digits in one token and one in the other: two deep on average, four in truth."""
    canvas = Canvas([Span("line", 2, Codec.base(16, 4))])
    masked = torch.tensor([[True, True, True, True, False, False, False, True]])
    flat = line_view([[0.1, 0.2]], step=3, left=5, total=8)
    view = replace(flat, canvas=canvas, masked=masked, visible=~masked)
    assert torch.equal(Margin(3).select(view).reveal, masked)


def test_an_entropy_budget_spends_its_share_of_what_is_left():
    """0.9 nats in three steps: 0.3 of them now, the surest first; what is over budget alone is still one."""
    nats = [0.4, 0.05, 0.2, 0.25]
    for step, chosen in ((1, [1, 2]), (2, [1, 2]), (3, [0, 1, 2, 3])):
        reveal = EntropyBudget(3).select(line_view([nats], step=step)).reveal
        assert reveal[0].nonzero()[:, 0].tolist() == chosen
    assert EntropyBudget(9).select(line_view([[0.4, 0.3]])).reveal.tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("step", "left", "pace", "count"),
    [
        (1, 8, Schedule.linear(), 2),  # ⌊8 · 1/4⌋
        (2, 8, Schedule.linear(), 4),  # behind: ⌊8 · 2/4⌋ - 0
        (3, 4, Schedule.linear(), 2),
        (3, 1, Schedule.linear(), 1),  # ahead: one all the same
        (1, 8, Schedule.cosine(), 1),  # 1 - cos(π/8) = 0.076: never none
        (3, 5, Schedule.cosine(), 1),  # ⌊8 · 0.617⌋ - 3
        (4, 5, Schedule.linear(), 5),  # the last step takes all
    ],
)
def test_the_quota_of_a_step_follows_the_pace(step, left, pace, count):
    sure = [0.1 * n for n in range(8)]
    view = line_view([sure], step=step, left=left, total=8, masked=[n < left for n in range(8)])
    reveal = Margin(4, pace).select(view).reveal[0].nonzero()[:, 0].tolist()
    assert reveal == list(range(left - count, left))  # the highest scores of those that are left


@pytest.mark.parametrize(
    ("steps", "revealed"),
    [(12, [[2, 0]]), (6, [[2, 0], [1, 0]]), (4, [[0, 0], [1, 0], [2, 0]]), (3, [[1, 0], [1, 1], [2, 0], [2, 1]])],
)
def test_a_quota_beyond_the_tokens_goes_into_their_depth(steps, revealed):
    """Three tokens of four digits, twelve units: the next digits of the best tokens, as few digits deep as will do."""
    canvas = Canvas([Span("line", 3, Codec.base(16, 4))])
    masked, token = torch.ones(1, 12, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    flat = line_view([[0.1, 0.2, 0.3]], left=12, total=12)
    view = replace(flat, canvas=canvas, masked=masked, visible=~masked, candidate=token, unmasked=~token)
    reveal = Margin(steps).select(view).reveal.view(3, 4)
    assert sorted(reveal.nonzero().tolist()) == sorted(revealed)


def test_klass_waits_until_a_distribution_stands_still():
    sampler = Klass(confidence=0.8, divergence=0.01, history=1)
    memory = sampler.begin(start_of(Canvas([Span("line", 2, Codec.base(2, 1))]), 1, 0))
    index = torch.tensor([[0, 0, 0], [0, 1, 0]])
    value = torch.tensor([[0], [0]])
    first = sampler.describe(torch.tensor([[[0.9, 0.1]], [[0.9, 0.1]]]).double(), value, index, memory)
    assert first[:, 1].tolist() == [0, 0]  # nothing to compare with yet
    second = sampler.describe(torch.tensor([[[0.9, 0.1]], [[0.6, 0.4]]]).double(), value, index, memory)
    assert second[:, 1].tolist() == [1, 0]
    assert sampler.select(line_view([[0.9, 0.6], [1.0, 0.0]])).reveal.tolist() == [[True, False]]
    assert sampler.select(line_view([[0.7, 0.6], [1.0, 0.0]])).reveal.tolist() == [[True, False]]  # the surest instead


def test_klass_takes_the_divergence_of_now_from_before():
    """KL((0.9, 0.1) ‖ (0.5, 0.5)) = 0.368, the other way 0.511."""
    for bound, calm in ((0.4, 1), (0.36, 0)):
        sampler = Klass(divergence=bound)
        memory = sampler.begin(start_of(Canvas([Span("line", 1, Codec.base(2, 1))]), 1, 0))
        for probs in ([0.5, 0.5], [0.9, 0.1]):
            found = sampler.describe(
                torch.tensor([[probs]]).double(), torch.tensor([[0]]), torch.zeros(1, 3).long(), memory
            )
        assert found[0, 1] == calm


def test_descriptions_are_their_formulas():
    probs = torch.tensor([[[0.7, 0.2, 0.1]], [[1.0, 0.0, 0.0]]]).double()
    value, index = torch.tensor([[1], [0]]), torch.tensor([[0, 0, 0], [0, 1, 0]])
    assert Margin().describe(probs, value, index, {})[:, 0].tolist() == pytest.approx([0.5, 1.0])
    nats = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert Entropy().describe(probs, value, index, {})[:, 0].tolist() == pytest.approx([-nats, 0.0])
    assert Confidence().describe(probs, value, index, {})[:, 0].tolist() == pytest.approx([math.log(0.2), 0.0])
    assert Moment(power=2.0).describe(probs, value, index, {})[:, 0].tolist() == pytest.approx([math.log(0.54), 0.0])


@pytest.mark.parametrize("sampler", [Margin(), Entropy(), Confidence(), Moment(power=2.0), Threshold()], ids=str)
def test_descriptions_of_factors_are_those_of_their_product(sampler):
    """A unit of two digits, described by its factors and by all nine pairs; the runner-up differs in either."""
    one, two = [0.7, 0.2, 0.1], [0.6, 0.35, 0.05]
    factors = torch.tensor([[one, two], [two, one]], dtype=torch.float64)
    value, index = torch.tensor([[1, 0], [2, 1]]), torch.tensor([[0, 0, 0], [0, 1, 0]])
    pairs = (factors[:, 0, :, None] * factors[:, 1, None]).flatten(1)[:, None]
    pair = 3 * value[:, :1] + value[:, 1:]
    found, want = sampler.describe(factors, value, index, {}), sampler.describe(pairs, pair, index, {})
    assert found.flatten().tolist() == pytest.approx(want.flatten().tolist())


@pytest.mark.parametrize(("sampler", "heat"), [(Confidence(3, noise=2.0), 2.0), (Moment(3), 1.0)])
def test_noise_draws_the_first_unit_in_proportion_to_the_power_of_its_score(sampler, heat):
    """The largest of s_i + r·Gumbel is i with chance softmax(s / r)_i; with the noise of the other sign it is not."""
    scores = torch.tensor([0.0, 1.0, 2.5, -1.0], dtype=torch.float64)
    one = line_view([scores.tolist()])
    noise = torch.rand(BATCH, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wide = {
        key: value.expand(BATCH, *value.shape[1:])
        for key, value in vars(one).items()
        if isinstance(value, torch.Tensor) and key not in ("noise", "example")
    }
    reveal = sampler.select(replace(one, **wide, noise=noise, example=torch.arange(BATCH))).reveal
    assert (reveal.sum(-1) == 1).all()
    oracle.assert_distribution(reveal.double().sum(0), (scores / heat).softmax(0))


def test_moment_sharpens_what_it_draws():
    """β = 2 on one token: p² / Σ p²."""
    world = oracle.make_world([oracle.Span("text", 1, oracle.Codec.base(3, 1))], 3)
    record = sample(oracle.perfect(world), world.canvas, Moment(1, power=2.0), batch=BATCH, generator=7)
    probs = world.p.square() / world.p.square().sum()
    oracle.assert_distribution(oracle.counts_of(world.index(record.y), 3), probs)


def test_a_block_takes_nothing_of_the_next():
    assert Blocks(gamma=9.0, size=2).select(line_view([[0.5, 0.4, 0.0]])).reveal.tolist() == [[True, True, False]]


def test_blocks_are_filled_one_after_the_other():
    record = sample(WRONG, CANVAS, Blocks(0.5, 1), batch=30, generator=8)
    rank = torch.stack([record.rank[:, CANVAS.token_of == token].amin(-1) for token in range(CANVAS.num_tokens)], -1)
    last = torch.stack([record.rank[:, CANVAS.token_of == token].amax(-1) for token in range(CANVAS.num_tokens)], -1)
    assert (rank[:, 1:] > last[:, :-1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Margin(0), "steps must be at least 1, got 0"),
        (lambda: Margin(unit="letter"), "unknown unit 'letter'"),
        (lambda: Confidence(noise=-1), "noise must be >= 0, got -1"),
        (lambda: Moment(power=0), "power must be > 0, got 0"),
        (lambda: EntropyBounded(-0.1), "gamma must be >= 0 nats, got -0.1"),
        (lambda: Threshold(1.5), "threshold must lie in"),
        (lambda: Factor(0.0), "factor must be > 0"),
        (lambda: Klass(history=0), "history and fallback >= 1"),
        (lambda: Blocks(size=0), "at least one token"),
        (lambda: ReMDM(kind="hard"), "unknown kind of remasking 'hard'"),
        (lambda: ReMDM(eta=1.5), "eta in"),
        (lambda: PathPlanning(eta=-1.0), "eta must be >= 0, got"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
