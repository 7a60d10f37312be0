"""Runs do not disturb each other, an example does not see its batch, and a batch may be empty."""

from __future__ import annotations

import oracle
import pytest
import torch
from engine_world import count_plan, start_of

from mmprime.engine import (
    MASK_ID,
    MASKINGS,
    SAMPLERS,
    Plan,
    Region,
    Schedule,
    Steering,
    begin,
    joint_loss,
    nelbo,
    sample,
    sampler_of,
    seeded,
    steer,
)
from mmprime.engine.samplers import PathPlanning, Planned, Regions

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
DENOISER = oracle.wrong(WORLD)
FIELDS = ("y", "rank", "nfe", "idle_steps")
OPTIONS = {  # of samplers that have several ways, those with most to remember
    "remdm": [{"kind": kind} for kind in ("cap", "conf", "loop")],
    "klass": [{"confidence": 0.3, "history": 1, "divergence": 0.5, "unit": unit} for unit in ("digit", "token")],
    "mixture": [{"rule": "margin"}, {"plan": "token_synchronous"}],
    "ancestral": [{}, {"masking": "nested"}],
}
CASES = [(name, options) for name in SAMPLERS for options in OPTIONS.get(name, [{}])]
# nothing given; everything; a token; a coarse digit; a fine digit and a token
GIVEN = torch.stack(
    [
        torch.where(torch.tensor([n in known for n in range(6)]), WORLD.y[13], MASK_ID)
        for known in ((), range(6), (0, 1), (2,), (1, 4, 5))
    ]
)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_sample_alone_is_that_of_its_batch(name: str, options: dict) -> None:
    sampler = sampler_of(name, options, 5)

    def run(rows: list[int]) -> object:
        given = GIVEN[rows]
        own, orders = (seeded(*(first + b for b in rows)) for first in (200, 100))
        return sample(DENOISER, CANVAS, sampler, given, generator=own, plan_generator=orders)

    batch = run(list(range(len(GIVEN))))
    for b in range(len(GIVEN)):
        alone = run([b])
        for field in FIELDS:
            assert torch.equal(getattr(alone, field)[0], getattr(batch, field)[b]), (field, b)
    assert int(batch.nfe[1]) == int(batch.idle_steps[1]) == 0  # everything was given
    if isinstance(sampler, Planned):
        assert torch.equal(batch.nfe + batch.idle_steps, batch.rank.amax(-1))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_two_rollouts_of_one_sampler_do_not_disturb_each_other(name: str, options: dict) -> None:
    shared = sampler_of(name, options, 4)
    fields = dict(vars(shared))
    runs = [begin(DENOISER, CANVAS, shared, batch=4, generator=seed) for seed in (1, 2)]
    under_way = [True, True]
    for turn in range(40):
        for number, run in enumerate(runs):
            if turn >= number * 2:  # the second begins when the first is under way
                under_way[number] = run.step()
    assert under_way == [False, False]
    for seed, run in zip((1, 2), runs):
        apart = sample(DENOISER, CANVAS, sampler_of(name, options, 4), batch=4, generator=seed)
        for field in FIELDS:
            assert torch.equal(getattr(run, field), getattr(apart, field)), (field, seed)
    assert vars(shared).keys() == fields.keys()
    assert all(value is fields[key] for key, value in vars(shared).items())


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_empty_batch_gives_an_empty_sample(name: str) -> None:
    given = GIVEN[:0]
    sampler = sampler_of(name, steps=4)
    found = sample(DENOISER, CANVAS, sampler, given, generator=1, trace=True)
    assert found.y.shape == (0, 6)
    assert [len(getattr(found, field)) for field in FIELDS] == [0] * 4
    run = begin(DENOISER, CANVAS, sampler, given, generator=1)
    run.load_state(run.state())
    while run.step():
        pass
    assert not run.under_way


def test_plans_and_bounds_of_no_example() -> None:
    nothing = WORLD.y[:0]
    for plan in (
        Plan.first_hitting(CANVAS, 0, 1, per_step=2),
        Plan.token_synchronous(CANVAS, 0, 1),
        count_plan(CANVAS, 0, 1, "nested", steps=3, pace=Schedule.cosine()),
        Plan.ordered(CANVAS, 0, 1, by="raster"),
        Plan.halton(CANVAS, 0, 1),
        Plan.ancestral(CANVAS, Schedule.linear(), 3, 0, 1),
    ):
        assert plan.rank.shape == (0, 6)
        assert plan.compact().rank.shape == (0, 6)
    for masking in MASKINGS:
        assert nelbo(DENOISER, CANVAS, nothing, masking=masking).shape == (0,)
        assert nelbo(DENOISER, CANVAS, nothing, 3, masking).shape == (0,)
    assert joint_loss(DENOISER, CANVAS, nothing).shape == (0,)
    assert len(steer(DENOISER, CANVAS, Plan.nested(CANVAS, 0, 1), Steering(lambda y: y[:, 0].double(), 1.0)).y) == 0


def test_idle_steps_end_with_the_example() -> None:
    """Three digits are free in the first example, one in the second: its steps end with its digit."""
    rank = torch.tensor([[0, 1, 0, 4, 0, 6], [0, 0, 2, 0, 0, 0]])
    given = torch.where(rank == 0, WORLD.y[13], MASK_ID)
    run = begin(DENOISER, CANVAS, Plan(rank, 9), given, generator=1)
    seen = []
    while run.step():
        seen.append(run.idle_steps.tolist())
    assert seen == [[0, 1], [1, 1], [2, 1], [2, 1], [3, 1], [3, 1]]  # and the rollout with its last example


def test_path_planning_scores_an_unmasked_token_with_its_given_digits() -> None:
    """The coarse digit of every token is given: a code with another one has no chance, whatever is unmasked."""

    class Watching(PathPlanning):
        def describe(self, probs, value, index, memory):
            seen.append((index, probs))
            return super().describe(probs, value, index, memory)

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    coarse = CANVAS.digit_of == 0
    given = torch.where(coarse, WORLD.y, MASK_ID)
    sample(DENOISER, CANVAS, Watching(4), given, generator=3)
    scored = 0
    for index, probs in seen:
        for (example, token, first), row in zip(index.tolist(), probs):
            assert first == 1
            span = CANVAS.spans[int(CANVAS.span_of[CANVAS.token_of == token][0])]
            digit = int(given[example, CANVAS.token_of == token][0])
            own = row[0, : span.codec.num_codes]  # codes in the order of their digits
            coarse_digit = span.codec.digits[span.codec.cell.argsort(), 0]
            assert float(own[coarse_digit == digit].sum()) == pytest.approx(1)
            assert float(own.sum()) == pytest.approx(1)
            scored += 1
    assert scored > 3 * len(given)


# ------------------------------------------------------------------------------------------------------- regions

TEXT, IMAGE = CANVAS.mask("text"), CANVAS.mask("image")


def planned(rows: list[int], parts: tuple[Region, ...], given: torch.Tensor) -> torch.Tensor:
    return Regions(4, parts).plan(start_of(CANVAS, len(rows), seeded(*rows), given[rows])).rank


def test_regions_treat_an_example_alone_as_in_a_batch() -> None:
    """Whatever is given: the same ranks or a refusal, and a batch is refused for what one of its examples is."""
    whole = torch.ones(6, dtype=torch.bool)
    given = torch.stack([whole, ~whole, TEXT, IMAGE, CANVAS.digit_of == 0])
    for parts in ((Region("text", TEXT, (0, 0.5)),), (Region("image", IMAGE, (0, 0.5)), Region("text", TEXT)), ()):
        alone: dict[int, torch.Tensor] = {}
        refused = set()
        for b in range(len(given)):
            try:
                alone[b] = planned([b], parts, given)[0]
            except ValueError:
                refused.add(b)
        assert {0, 1, 4} <= alone.keys()
        assert bool((alone[0] == 0).all())
        assert refused == ({2, 3} if len(parts) == 2 else {2, 3} if parts else set())
        together = planned(list(alone), parts, given)
        assert all(torch.equal(row, alone[b]) for row, b in zip(together, alone))
        for b in refused:
            with pytest.raises(ValueError, match=r"nothing to reveal: .* in example 1|do not cover the run"):
                planned([1, b], parts, given)
