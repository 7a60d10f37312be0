"""Adaptive samplers: by distributions alone, one unit at a time, they are exact; each selects by its formula."""

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


# ------------------------------------------------------------------------------------------------- what each chooses


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


# ------------------------------------------------------------------------------------------------------ remasking


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
    nll, _ = oracle.likelihood_of(WRONG, CANVAS, WORLD.y, "token_synchronous", steps=3)
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
