"""What a denoiser rules out (-inf) is never drawn and costs +inf nats; NaN and +inf are refused."""

from __future__ import annotations

import math

import oracle
import pytest
import torch

from mmprime.engine import (
    MASKINGS,
    SAMPLERS,
    Codec,
    Guidance,
    NonFiniteLogits,
    Plan,
    Schedule,
    Tilted,
    exact_nelbo,
    joint_loss,
    nelbo,
    plan_nats,
    sample,
    sampler_of,
)  # fmt: skip
from mmprime.engine.guidance import Guided
from mmprime.engine.heads.softmax import Remaining
from mmprime.engine.tilting import CodeScores

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
Y = WORLD.y[:12]
CONFIDENT = {"greedy": 0.0, "random": 1.0}
BAD = {
    "nan": (math.nan, r"span 'text', token 1: the logit of code 2 is nan"),
    "inf": (math.inf, r"span 'text', token 1: the logit of code 2 is inf"),
    "none": (None, r"span 'text', token 1: the logits of all 3 codes are -inf"),
}


def broken(value: float | None) -> oracle.TableDenoiser:
    """Code 2 of the second token of the text has that logit in every state; None: all its codes have -inf."""
    denoiser = oracle.wrong(WORLD)
    with torch.no_grad():
        if value is None:
            denoiser.table[:, 1] = -math.inf
        else:
            denoiser.table[:, 1, 2] = value
    return denoiser


def ruling_out(seed: int | None = None) -> oracle.TableDenoiser:
    """Code 1 of the first token is impossible; with a seed a third of all other logits too, but for code 0."""
    denoiser = oracle.wrong(WORLD)
    with torch.no_grad():
        denoiser.table[:, 0, 1] = -math.inf
        if seed is not None:
            away = torch.rand(denoiser.table.shape, generator=torch.Generator().manual_seed(seed)) < 0.33
            away[..., 0] = False
            denoiser.table[away] = -math.inf
    return denoiser


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_draws_from_what_is_no_distribution(name: str, bad: str) -> None:
    value, message = BAD[bad]
    for temperature in CONFIDENT.values():
        sampler = sampler_of(name, steps=3)
        with pytest.raises(NonFiniteLogits, match=message):
            sample(broken(value), CANVAS, sampler, generator=1, batch=4, temperature=temperature)


@pytest.mark.parametrize("bad", BAD)
def test_no_likelihood_is_made_of_what_is_no_distribution(bad: str) -> None:
    value, message = BAD[bad]
    denoiser, generator = broken(value), torch.Generator().manual_seed(3)
    for score in (
        lambda: nelbo(denoiser, CANVAS, Y, samples=4, generator=generator),
        lambda: nelbo(denoiser, CANVAS, Y, steps=3, samples=4, generator=generator),
        lambda: joint_loss(denoiser, CANVAS, Y, generator=generator),
        lambda: plan_nats(denoiser, CANVAS, Y, Plan.nested(CANVAS, len(Y), 4)),
        lambda: exact_nelbo(denoiser, CANVAS, Y[:1], steps=1),
    ):
        with pytest.raises(ValueError, match=message):
            score()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_code_that_is_ruled_out_is_never_drawn(name: str) -> None:
    for temperature, top_p in ((0.0, 1.0), (0.3, 1.0), (1e6, 0.95), (1.0, 0.5)):
        sampler = sampler_of(name, steps=3)
        found = sample(ruling_out(), CANVAS, sampler, generator=2, batch=40, temperature=temperature, top_p=top_p)
        assert (CANVAS.unpack(found.y)["text"][:, 0] != 1).all()


def test_the_truth_of_no_chance_costs_infinite_nats_and_no_other() -> None:
    denoiser = ruling_out()
    never = WORLD.codes[:, 0] == 1
    for masking in MASKINGS:
        plan = Plan.ancestral(CANVAS, Schedule.linear(), 4, len(WORLD.y), 5, masking=masking)
        assert torch.equal(plan_nats(denoiser, CANVAS, WORLD.y, plan).isposinf(), never)
        given = None if masking == "token_synchronous" else CANVAS.mask("image")
        exact = exact_nelbo(denoiser, CANVAS, WORLD.y, steps=2, masking=masking, given=given)
        assert torch.equal(exact.nll.isposinf(), never)
        assert torch.equal(exact.bound.isposinf(), never)
        assert bool((exact.bound[~never] >= exact.nll[~never]).all())
        for steps in (None, 3):
            nats = nelbo(
                denoiser, CANVAS, WORLD.y, steps, masking, samples=12, generator=torch.Generator().manual_seed(6)
            )
            assert torch.equal(nats.isposinf(), never)
            assert bool(nats[~never].isfinite().all())


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_nan_where_the_impossible_is_visible(seed: int) -> None:
    """States that the denoiser gives no chance are visible to it; its verdicts on them need not agree."""
    denoiser, generator = ruling_out(seed), torch.Generator().manual_seed(seed)
    plan = Plan.first_hitting(CANVAS, len(WORLD.y), 5)
    found = [plan_nats(denoiser, CANVAS, WORLD.y, plan), *exact_nelbo(denoiser, CANVAS, WORLD.y[:6], steps=2)]
    found.append(joint_loss(denoiser, CANVAS, WORLD.y, generator=generator))
    for masking in MASKINGS:
        found += [nelbo(denoiser, CANVAS, WORLD.y, steps, masking, generator=generator) for steps in (None, 3)]
    for nats in found:
        assert not bool(nats.isnan().any())
        assert float(nats.min()) >= 0
    assert any(bool(nats.isfinite().any()) for nats in found)


def test_gradients_of_finite_nats_are_finite() -> None:
    denoiser = ruling_out(1)
    nats = nelbo(denoiser, CANVAS, WORLD.y, generator=torch.Generator().manual_seed(2))
    assert bool(nats.isinf().any())
    nats[nats.isfinite()].sum().backward()
    assert bool(denoiser.table.grad.isfinite().all())
    assert bool((denoiser.table.grad != 0).any())


def test_of_an_impossible_state_everything_that_follows_is_impossible() -> None:
    codes = Codec.product((2, 2)).agreement(torch.device("cpu"))
    visible, logits = torch.tensor([[-1, 1]]), torch.tensor([[-math.inf, -math.inf, 1.0, -math.inf]])
    logits = logits.masked_fill(~codes.agree(codes.key, visible), -math.inf)
    part = Remaining(codes, torch.tensor([0]), visible, logits, None)
    posterior = part.log_posterior()
    assert bool(posterior.isneginf().all())
    assert float(part.log_mass(posterior, torch.tensor([[0, 1]]))) == -math.inf
    logits[0, 1] = math.nan
    assert bool(part.log_posterior().isnan().any())  # a NaN does not become an impossibility


class _Two:
    """A head whose hidden states are the logits."""

    def logits(self, hidden: torch.Tensor, span: object) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize("scale", [-1.0, -0.5, 0.5, 3.0])
def test_guidance_leaves_impossible_codes_impossible(scale: float) -> None:
    own = torch.tensor([0.5, -math.inf, -math.inf, 1.0])
    without = torch.tensor([0.0, -math.inf, 2.0, 0.7])
    hidden = torch.cat([own, without, torch.tensor([scale])])[None]
    guided = Guided(_Two(), Guidance(scale)).logits(hidden, None)[0]
    expected = without if scale == -1 else (1 + scale) * own - scale * without.clamp(min=-1e9)
    assert guided.tolist() == pytest.approx(expected.tolist())
    assert guided[1] == -math.inf


def test_settings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be >= 0 and finite, got inf"):
        sample(oracle.wrong(WORLD), CANVAS, Plan.nested(CANVAS, 2, 1), temperature=math.inf)
    tilted = Tilted(oracle.wrong(WORLD), CodeScores({"text": torch.zeros(3)}), math.inf)
    with pytest.raises(ValueError, match="scale of a tilt must be finite, got inf"):
        sample(tilted, CANVAS, Plan.nested(CANVAS, 2, 1))
