"""Tilting by a scorer, against worlds whose tilted distribution can be written down."""

from __future__ import annotations

import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import Canvas, CodeScores, Guidance, Plan, Span, Tilted, sample

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
REWARD = 1.5 * torch.randn(len(WORLD.p), generator=torch.Generator().manual_seed(11), dtype=torch.float64)
TARGET = (WORLD.p.log() + REWARD).softmax(0)
TEXT = CANVAS.mask("text")
START = torch.where(TEXT, WORLD.y[22], -1)


class LookAhead:
    """The scorer log E[exp r(x) | y, x_i = v], by summing the world; features: its values for all codes of a token."""

    features = 5

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, y: Tensor, canvas: Canvas, cond: object = None) -> Tensor:
        agree = ((y[:, None] < 0) | (y[:, None] == WORLD.y)).all(-1).double()
        out = torch.zeros(len(y), canvas.num_tokens, self.features, dtype=torch.float64)
        for token in range(canvas.num_tokens):
            for code in range(5):
                here = agree * (WORLD.codes[:, token] == code)
                mass, value = (here * WORLD.p).sum(-1), (here * WORLD.p * REWARD.exp()).sum(-1)
                out[:, token, code] = torch.where(mass > 0, (value / mass.clamp(min=1e-300)).log(), 0.0)
        return out

    def scores(self, features: Tensor, span: Span) -> Tensor:
        self.asked += len(features)
        return features[:, : span.codec.num_codes]


def test_with_the_look_ahead_value_it_is_the_perfect_denoiser_of_the_tilted_world() -> None:
    """p(v | y) E[exp r | y, v] ∝ the tilted world's own conditional, at every state."""
    tilted = Tilted(oracle.perfect(WORLD), LookAhead())
    exact = oracle.perfect(oracle.World(CANVAS, WORLD.codes, WORLD.y, TARGET))
    y = WORLD.y[::4].clone()
    y[torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.6] = -1
    found, expected = tilted(y, CANVAS), exact(y, CANVAS)
    for span in CANVAS.spans:
        for token in range(CANVAS.num_tokens)[CANVAS.token_slice(span.name)]:
            position = CANVAS.subtoken_slice(span.name).start + 2 * (token - CANVAS.token_slice(span.name).start)
            visible = y[:, None, position : position + 2]
            out = ~((visible < 0) | (visible == span.codec.digits)).all(-1)  # ruled out by carry-over
            probs, aim = (
                model.logits(hidden[:, token], span).masked_fill(out, -torch.inf).softmax(-1)
                for model, hidden in ((tilted, found), (exact, expected))
            )
            assert torch.allclose(probs, aim, atol=1e-12)


def test_samples_with_the_look_ahead_value_have_the_tilted_distribution() -> None:
    plan = Plan.first_hitting(CANVAS, 6000, 3)
    record = sample(Tilted(oracle.perfect(WORLD), LookAhead()), CANVAS, plan, generator=4)
    oracle.assert_distribution(oracle.counts_of(WORLD.index(record.y), len(TARGET)), TARGET)


@pytest.mark.parametrize("scale", [2.0, -1.0])
def test_a_score_of_codes_is_exact_for_one_masked_token(scale: float) -> None:
    """Whatever the order of its digits: p' ∝ p(v | text) exp(λ s(v)); the other tokens are not touched."""
    score = torch.tensor([0.3, -0.5, 1.0, 0.0, 0.7])
    given = (WORLD.codes[:, :2] == WORLD.codes[22, :2]).all(-1)
    probs = (WORLD.p[given].log() + scale * score).softmax(0)
    plan = Plan.first_hitting(CANVAS, 6000, 3, given=TEXT)
    tilted = Tilted(oracle.perfect(WORLD), CodeScores({"image": score}), {"image": scale, "text": 5.0})
    record = sample(tilted, CANVAS, plan, START.expand(6000, -1), generator=4)
    codes = CANVAS.span("image").codec.decode(CANVAS.view(record.y, "image"))[:, 0]
    oracle.assert_distribution(oracle.counts_of(codes, 5), probs)
    assert record.nfe.tolist() == [2] * 6000


def test_the_scorer_is_asked_for_chosen_tokens_of_the_region_only() -> None:
    model, scorer = oracle.perfect(WORLD), LookAhead()
    region = torch.tensor([1.0, 0.0, 0.0])
    plan = Plan.token_synchronous(CANVAS, 7, 1, given=CANVAS.mask("image"))
    start = torch.where(TEXT, -1, WORLD.y[:7])
    sample(Tilted(model, scorer, region), CANVAS, plan, start, generator=1)
    assert (model.head_tokens, scorer.asked) == (14, 7)


def test_tilted_samples_do_not_depend_on_the_batch() -> None:
    plan = Plan.first_hitting(CANVAS, 9, 7)
    model = Tilted(oracle.wrong(WORLD), LookAhead(), torch.tensor([0.5, 1.0, 2.0]))
    whole = sample(model, CANVAS, plan, generator=8)
    part = sample(model, CANVAS, Plan(plan.rank[:4], 6), generator=8)
    assert torch.equal(part.y, whole.y[:4])


def test_with_classifier_free_guidance_a_score_of_codes_acts_once() -> None:
    """ℓ_c + s + w (ℓ_c + s - ℓ_u - s), and both branches are counted."""
    score = torch.tensor([0.3, -0.5, 1.0, 0.0, 0.7], dtype=torch.float64)
    guidance = Guidance(1.5, "constant")
    plan = Plan.token_synchronous(CANVAS, 6000, 3, given=TEXT)
    start = START.expand(6000, -1)
    record = sample(Tilted(oracle.perfect(WORLD), CodeScores({"image": score})), CANVAS, plan, start, generator=4,
                    guidance=guidance)  # fmt: skip
    given = (WORLD.codes[:, :2] == WORLD.codes[22, :2]).all(-1)
    conditional = WORLD.p[given] / WORLD.p[given].sum()
    marginal = WORLD.p.view(-1, 5).sum(0)
    probs = (2.5 * conditional.log() - 1.5 * marginal.log() + score).softmax(0)
    codes = CANVAS.span("image").codec.decode(CANVAS.view(record.y, "image"))[:, 0]
    oracle.assert_distribution(oracle.counts_of(codes, 5), probs)
    assert record.nfe.tolist() == [2] * 6000


def test_refusals() -> None:
    plan = Plan.first_hitting(CANVAS, 2, 0)
    for table, message in (
        ({"image": torch.zeros(4)}, r"scores of span 'image' have shape \(4,\), it has 5 codes"),
        ({"picture": torch.zeros(5)}, "no span 'picture'"),
        ({"image": torch.full((5,), -torch.inf)}, "a score of span 'image' is not finite; to forbid a code"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(Tilted(oracle.perfect(WORLD), CodeScores(table)), CANVAS, plan)
    with pytest.raises(ValueError, match=r"scale has shape \(2,\), the canvas 3 tokens"):
        sample(Tilted(oracle.perfect(WORLD), CodeScores({}), torch.ones(2)), CANVAS, plan)
