"""`exact_nelbo` against the oracle, the bound against the entropy, and where theory makes them equal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import oracle
import oracle_walk
import pytest
import torch

from mmprime.engine import MASKINGS, Canvas, Codec, Masking, Rows, Schedule, Span, exact_nelbo, masking_of, nelbo

PAIR, MIXED, PLAIN = oracle.pair_world(), oracle.mixed_world(), oracle.plain_world()
GIVEN = torch.tensor([False, True, False, False, True, False])
SCHEDULES = {
    "linear": Schedule.linear(),
    "cosine": Schedule.cosine(),
    "regions": Schedule.regions({"text": Schedule.polynomial(0.5), "image": Schedule.cosine()}, MIXED.canvas),
}


def on(masking: str, schedule: Schedule) -> Masking:
    return replace(masking_of(masking), schedule=schedule)


def expected_bound(world: oracle.World, denoiser: oracle.TableDenoiser, **options: object) -> float:
    return float((world.p * exact_nelbo(denoiser, world.canvas, world.y, **options).bound.detach()).sum())


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("given", [None, GIVEN], ids=["free", "given"])
def test_exact_by_plans_equals_exact_by_states(masking: str, given: torch.Tensor | None) -> None:
    denoiser, y = oracle.wrong(MIXED), MIXED.y[::4]
    known = [] if given is None else given.nonzero()[:, 0].tolist()
    value = exact_nelbo(denoiser, MIXED.canvas, y, masking=masking, given=given)
    nll, bound = oracle_walk.likelihood_of(denoiser, MIXED.canvas, y, masking, given=known)
    assert torch.allclose(value.nll, nll, atol=1e-9)
    assert torch.allclose(value.bound, bound, atol=1e-9)
    assert (value.bound > value.nll + 1e-3).any()  # Jensen's gap is there to be seen


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2])
def test_finite_exact_by_plans_equals_exact_by_states(masking: str, name: str, steps: int) -> None:
    denoiser, y = oracle.wrong(MIXED), MIXED.y[::8]
    value = exact_nelbo(denoiser, MIXED.canvas, y, steps, on(masking, SCHEDULES[name]))
    nll, bound = oracle_walk.likelihood_of(denoiser, MIXED.canvas, y, masking, SCHEDULES[name], steps)
    assert torch.allclose(value.nll, nll, atol=1e-9)
    assert torch.allclose(value.bound, bound, atol=1e-9)


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("steps", [None, 1, 2, 4])
@pytest.mark.parametrize("kind", ["perfect", "wrong", "table"])
def test_the_model_is_a_distribution_and_the_bound_holds(masking: str, steps: int | None, kind: str) -> None:
    """exp(-nll) sums to one over all configurations; nll <= bound row by row; entropy <= E_p[nll] <= E_p[bound]."""
    for world in (PAIR, MIXED) if steps in (None, 1, 2) else (PAIR,):
        denoiser = {"perfect": oracle.perfect, "wrong": oracle.wrong}.get(kind, lambda w: oracle.random_table(w.canvas))
        value = exact_nelbo(denoiser(world), world.canvas, world.y, steps, masking)
        assert float(value.nll.detach().neg().exp().sum()) == pytest.approx(1, abs=1e-9)
        assert (value.bound >= value.nll - 1e-9).all()
        assert float((world.p * value.nll.detach()).sum()) >= world.entropy - 1e-9
        if kind != "perfect":
            assert float((world.p * value.nll.detach()).sum()) > world.entropy + 1e-3


@pytest.mark.parametrize("masking", ["independent", "nested", "coarse_first"])
def test_singletons_of_the_perfect_denoiser_reach_the_entropy(masking: str) -> None:
    """One sub-token a step: the chain rule, for each configuration and every order."""
    for world in (PAIR, MIXED, PLAIN):
        value = exact_nelbo(oracle.perfect(world), world.canvas, world.y, masking=masking)
        assert torch.allclose(value.bound, -world.p.log(), atol=1e-9)
        assert torch.allclose(value.nll, -world.p.log(), atol=1e-9)


def test_token_synchronous_singletons_reach_the_entropy_too() -> None:
    """Whole tokens one by one, digits drawn jointly."""
    for world in (PAIR, MIXED, PLAIN):
        value = exact_nelbo(oracle.perfect(world), world.canvas, world.y, masking="token_synchronous")
        assert torch.allclose(value.bound, -world.p.log(), atol=1e-9)


@pytest.mark.parametrize("masking", MASKINGS)
def test_one_token_is_exact_at_every_number_of_steps(masking: str) -> None:
    """With one token nothing is independent that should not be: digits of a token are drawn jointly."""
    world = oracle.make_world([Span("text", 1, Codec.base(5, 3))], seed=3)
    for steps in (None, 1, 2, 5):
        value = exact_nelbo(oracle.perfect(world), world.canvas, world.y, steps, masking)
        assert torch.allclose(value.bound, -world.p.log(), atol=1e-9)


@pytest.mark.parametrize("masking", MASKINGS)
def test_finite_bound_falls_towards_the_continuous_one(masking: str) -> None:
    denoiser = oracle.perfect(PAIR)
    bounds = [expected_bound(PAIR, denoiser, steps=steps, masking=masking) for steps in (1, 2, 4, 8)]
    limit = expected_bound(PAIR, denoiser, masking=masking)
    assert limit == pytest.approx(PAIR.entropy, abs=1e-9)
    gaps = [bound - limit for bound in bounds]
    assert gaps[0] > 0.02
    assert all(later < 0.75 * earlier for earlier, later in pairwise(gaps))
    assert gaps[-1] < 0.25 * gaps[0]


def test_one_step_is_the_sum_of_the_token_marginals() -> None:
    """T = 1 knows each token alone: the bound is Σ_i -log p(x_i), the entropy plus the total correlation."""
    value = exact_nelbo(oracle.perfect(PAIR), PAIR.canvas, PAIR.y, steps=1)
    table = PAIR.p.view(3, 3)
    alone = -(table.sum(1).log()[PAIR.codes[:, 0]] + table.sum(0).log()[PAIR.codes[:, 1]])
    assert torch.allclose(value.bound, alone, atol=1e-9)
    assert torch.allclose(value.nll, alone, atol=1e-9)


@pytest.mark.parametrize("masking", MASKINGS)
def test_finite_exact_at_more_steps(masking: str) -> None:
    denoiser = oracle.wrong(PAIR)
    value = exact_nelbo(denoiser, PAIR.canvas, PAIR.y, 5, on(masking, Schedule.cosine()))
    nll, bound = oracle_walk.likelihood_of(denoiser, PAIR.canvas, PAIR.y, masking, Schedule.cosine(), 5)
    assert torch.allclose(value.nll, nll, atol=1e-9)
    assert torch.allclose(value.bound, bound, atol=1e-9)


def test_the_continuous_bound_does_not_depend_on_the_schedule_and_the_finite_one_does() -> None:
    denoiser = oracle.wrong(PAIR)
    plain = expected_bound(PAIR, denoiser)
    finite = {
        name: expected_bound(PAIR, denoiser, steps=2, masking=on("independent", SCHEDULES[name]))
        for name in ("linear", "cosine")
    }
    assert expected_bound(PAIR, denoiser, masking=on("independent", Schedule.cosine())) == plain
    assert abs(finite["linear"] - finite["cosine"]) > 1e-3
    for name in ("linear", "cosine"):
        _, fine = oracle_walk.likelihood_of(denoiser, PAIR.canvas, PAIR.y, schedule=SCHEDULES[name], steps=64)
        assert abs(float((PAIR.p * fine).sum()) - plain) < 0.1 * abs(finite[name] - plain)


def test_one_mask_may_be_said_for_each_example() -> None:
    one, each = (
        exact_nelbo(oracle.wrong(MIXED), MIXED.canvas, MIXED.y[:2], given=g) for g in (GIVEN, GIVEN.expand(2, 6))
    )
    assert torch.equal(one.nll, each.nll)
    assert nelbo.exact is exact_nelbo


def test_everything_given_costs_nothing() -> None:
    value = exact_nelbo(oracle.wrong(PAIR), PAIR.canvas, PAIR.y, given=torch.ones(4, dtype=torch.bool))
    assert torch.equal(value.bound, torch.zeros(9, dtype=torch.float64))
    nats = nelbo(oracle.wrong(PAIR), PAIR.canvas, PAIR.y, given=torch.ones(4, dtype=torch.bool))
    assert torch.equal(nats.detach(), torch.zeros_like(nats))


def test_refusals() -> None:
    denoiser, canvas, y = oracle.wrong(MIXED), MIXED.canvas, MIXED.y[:2]
    with pytest.raises(ValueError, match="at least one step, got 0"):
        exact_nelbo(denoiser, canvas, y, steps=0)
    with pytest.raises(ValueError, match="'diagonal'"):
        exact_nelbo(denoiser, canvas, y, masking="diagonal")
    with pytest.raises(ValueError, match="one mask `given` for all examples"):
        exact_nelbo(denoiser, canvas, y, given=torch.stack([GIVEN, ~GIVEN]))
    with pytest.raises(ValueError, match="nothing absent"):
        exact_nelbo(denoiser, canvas, Rows.of(canvas, y, absent=GIVEN))
    with pytest.raises(ValueError, match="regions"):
        exact_nelbo(denoiser, canvas, y, masking=on("independent", SCHEDULES["regions"]))
    coarse = canvas.mask(digits=[0])
    by_digit = Schedule.regions([(coarse, Schedule.linear()), (~coarse, Schedule.cosine())], canvas)
    with pytest.raises(ValueError, match="'nested' needs one schedule"):
        exact_nelbo(denoiser, canvas, y, 2, on("nested", by_digit))
    with pytest.raises(ValueError, match="sub-token 5 of example 0 is masked in the data"):
        exact_nelbo(denoiser, canvas, torch.where(torch.arange(6) == 5, -1, y))
    with pytest.raises(ValueError, match="digit 9 at sub-token 0 of example 0"):
        exact_nelbo(denoiser, canvas, torch.where(torch.arange(6) == 0, 9, y))
    big = Canvas([Span("text", 9, Codec.base(2, 1))])
    with pytest.raises(ValueError, match="362880 plans"):
        exact_nelbo(denoiser, big, torch.zeros(1, 9, dtype=torch.int64))
