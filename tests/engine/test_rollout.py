"""A run can be watched, left after any step and taken up again, to the same sample bit for bit."""

from __future__ import annotations

import oracle
import pytest
import torch

from mmprime.engine import MASK_ID, SAMPLERS, Plan, begin, sample, sampler_of, stream
from mmprime.engine.samplers import FixedPlan

WORLD = oracle.mixed_world()
DENOISER = oracle.wrong(WORLD)
GIVEN = torch.full((6, WORLD.canvas.num_subtokens), MASK_ID)
GIVEN[:, 0] = WORLD.y[0, 0]


def request(name: str) -> tuple:
    """The arguments of a rollout by that sampler."""
    return DENOISER, WORLD.canvas, sampler_of(name, steps=4), GIVEN


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_left_after_any_step_goes_on_as_if_it_had_not_been(name):
    whole = sample(*request(name), generator=9, plan_generator=5, trace=True)
    for stop in range(len(whole.trace.y) + 1):
        run = begin(*request(name), generator=9, plan_generator=5)
        for _ in range(stop):
            assert run.step()
        found = sample(*request(name), generator=1234, plan_generator=5, state=run.state())
        for field in ("y", "rank", "nfe", "idle_steps"):
            assert torch.equal(getattr(found, field), getattr(whole, field)), (field, stop)


def test_a_plan_fits_what_is_free_and_leaves_nothing_masked():
    rank = torch.tensor([[0, 1, 2, 3, 4, 5]]).expand(6, -1)
    for other in (rank.clone().fill_(1), torch.where(rank == 3, -1, rank), torch.where(rank == 3, 0, rank)):
        with pytest.raises(ValueError, match="a plan gives a rank above 0 to exactly what is neither given nor absent"):
            begin(DENOISER, WORLD.canvas, FixedPlan(Plan(other, 5)), GIVEN)
    with pytest.raises(ValueError, match="a plan for 2 examples, 6 to draw"):
        begin(DENOISER, WORLD.canvas, FixedPlan(Plan(rank[:2], 5)), GIVEN)
    run = begin(DENOISER, WORLD.canvas, Plan(rank, 5), GIVEN, generator=1)
    assert run.step()
    run.y[3, 1] = MASK_ID  # what the plan has come to is masked by someone else
    with pytest.raises(RuntimeError, match="left sub-tokens masked before step 2"):
        run.step()


def test_the_stream_shows_every_step():
    whole = sample(*request("margin"), generator=9, trace=True)
    seen = [(run.number, run.y.clone(), int(run.nfe.max())) for run in stream(*request("margin"), generator=9)]
    assert [number for number, _, _ in seen] == list(range(1, len(whole.trace.y) + 1))
    assert torch.equal(torch.stack([y for _, y, _ in seen]), whole.trace.y)
    assert [spent for _, _, spent in seen] == sorted(spent for _, _, spent in seen)
    assert seen[-1][2] == int(whole.nfe.max())


def test_a_state_of_another_request_is_refused():
    run = begin(*request("nested"), generator=9)
    run.step()
    with pytest.raises(ValueError, match="a rollout of another plan"):
        sample(*request("raster"), generator=9, state=run.state())
    with pytest.raises(ValueError, match="a rollout of another plan"):
        sample(*request("nested"), generator=10, state=run.state())
    policy = begin(*request("margin"), generator=9)
    with pytest.raises(ValueError, match="other given parts"):
        sample(*request("margin")[:3], GIVEN.masked_fill(GIVEN >= 0, MASK_ID), generator=9, state=policy.state())
    short = {key: value[:3] if value.ndim else value for key, value in policy.state().items()}
    with pytest.raises(ValueError, match="y of the state is"):
        sample(*request("margin"), generator=9, state=short)
    with pytest.raises(ValueError, match="a state of a rollout by 'margin' has 'confidence'; this one has not"):
        sample(*request("margin"), generator=9, state={"y": GIVEN})


def test_a_token_takes_the_temperature_of_the_first_digit_it_reveals() -> None:
    """One token of two digits with a temperature each: a whole code is drawn, the digit that is due is kept."""
    world = oracle.make_world([oracle.Span("text", 1, oracle.Codec.base(4, 2))], 3, spread=0.4)
    table, denoiser, batch = world.p.view(2, 2), oracle.perfect(world), 4000
    for coarse, fine in ((0.3, 1.0), (1.0, 0.3)):
        heat = torch.tensor([coarse, fine], dtype=torch.float64)
        found = sample(
            denoiser, world.canvas, sampler_of("nested", steps=2), batch=batch, temperature=heat, generator=4
        )
        whole = _heated(world.p, coarse).view(2, 2)
        rest = torch.stack([_heated(row, fine) for row in table])
        expected = (whole.sum(1, keepdim=True) * rest).flatten()
        oracle.assert_distribution(oracle.counts_of(world.index(found.y), 4), expected)
        at_once = sample(
            denoiser, world.canvas, sampler_of("token_synchronous", steps=1), batch=batch, temperature=heat, generator=5
        )
        oracle.assert_distribution(oracle.counts_of(world.index(at_once.y), 4), _heated(world.p, coarse))


def _heated(p: torch.Tensor, temperature: float) -> torch.Tensor:
    return (p.log() / temperature).softmax(0)


def test_each_subtoken_can_have_its_own_temperature():
    canvas = WORLD.canvas
    plan, one_step = sampler_of("nested", steps=2), sampler_of("token_synchronous", steps=1)
    heat = torch.ones(canvas.num_subtokens, dtype=torch.float64)
    assert torch.equal(
        sample(DENOISER, canvas, plan, batch=400, temperature=heat, generator=3).y,
        sample(DENOISER, canvas, plan, batch=400, generator=3).y,
    )
    image = canvas.mask(canvas.spans[-1].name)
    mixed = sample(DENOISER, canvas, one_step, batch=400, temperature=heat.masked_fill(image, 0.0), generator=3).y
    greedy = sample(DENOISER, canvas, one_step, batch=400, temperature=0.0, generator=3).y
    free = sample(DENOISER, canvas, one_step, batch=400, generator=3).y
    assert torch.equal(mixed[:, image], greedy[:, image])
    assert torch.equal(mixed[:, ~image], free[:, ~image])
    assert not torch.equal(free[:, image], greedy[:, image])
    with pytest.raises(ValueError, match="temperature must be >= 0"):
        sample(DENOISER, canvas, one_step, batch=400, temperature=-heat, generator=3)
