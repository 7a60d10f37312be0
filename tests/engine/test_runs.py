"""A run can be watched, left after any step and taken up again, to the same sample bit for bit."""

from __future__ import annotations

import oracle
import pytest
import torch

from mmprime.engine import MASK_ID, begin, sample, stream
from mmprime.engine.samplers.registry import SAMPLERS, Request, build

WORLD = oracle.mixed_world()
DENOISER = oracle.wrong(WORLD)
GIVEN = torch.full((6, WORLD.canvas.num_subtokens), MASK_ID)
GIVEN[:, 0] = WORLD.y[0, 0]


def request(name: str):
    """The arguments of a run of that sampler, made afresh: no generator is used twice."""
    plan = build(name, Request(WORLD.canvas, 6, 4, 5, GIVEN >= 0))
    return DENOISER, WORLD.canvas, plan, GIVEN


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_left_after_any_step_goes_on_as_if_it_had_not_been(name):
    whole = sample(*request(name), generator=9, trace=True)
    for stop in range(len(whole.trace.y) + 1):
        run = begin(*request(name), generator=9)
        for _ in range(stop):
            assert run.step()
        found = sample(*request(name), generator=1234, state=run.state())
        for field in ("y", "rank", "nfe", "idle_steps"):
            assert torch.equal(getattr(found, field), getattr(whole, field)), (field, stop)


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
    with pytest.raises(ValueError, match="a run of another plan"):
        sample(*request("raster"), generator=9, state=run.state())
    policy = begin(*request("margin"), generator=9)
    with pytest.raises(ValueError, match="other given parts"):
        sample(*request("margin")[:3], GIVEN.masked_fill(GIVEN >= 0, MASK_ID), generator=9, state=policy.state())
    short = {key: value[:3] if value.ndim else value for key, value in policy.state().items()}
    with pytest.raises(ValueError, match="y of the state is"):
        sample(*request("margin"), generator=9, state=short)
    with pytest.raises(ValueError, match="a state of a run has no 'confidence'"):
        sample(*request("margin"), generator=9, state={"y": GIVEN})


def test_each_subtoken_can_have_its_own_temperature():
    canvas = WORLD.canvas
    plan = lambda: build("nested", Request(canvas, 400, 2, 5))  # noqa: E731
    heat = torch.ones(canvas.num_subtokens, dtype=torch.float64)
    assert torch.equal(
        sample(DENOISER, canvas, plan(), temperature=heat, generator=3).y,
        sample(DENOISER, canvas, plan(), generator=3).y,
    )
    image = canvas.mask(canvas.spans[-1].name)
    one_step = lambda: build("token_synchronous", Request(canvas, 400, 1, 5))  # noqa: E731
    mixed = sample(DENOISER, canvas, one_step(), temperature=heat.masked_fill(image, 0.0), generator=3).y
    greedy = sample(DENOISER, canvas, one_step(), temperature=0.0, generator=3).y
    free = sample(DENOISER, canvas, one_step(), generator=3).y
    assert torch.equal(mixed[:, image], greedy[:, image])
    assert torch.equal(mixed[:, ~image], free[:, ~image])
    assert not torch.equal(free[:, image], greedy[:, image])
    with pytest.raises(ValueError, match="temperature must be >= 0"):
        sample(DENOISER, canvas, one_step(), temperature=-heat, generator=3)
