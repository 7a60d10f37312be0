"""Regions keep to their windows, orders and budgets, and leave the distribution of a one-by-one plan exact."""

from __future__ import annotations

import oracle
import pytest
import torch
from engine_world import start_of

from mmprime.engine import ABSENT, Canvas, Codec, Guidance, Region, Span, sample, sampler_of
from mmprime.engine.samplers import CoarseFirst, FirstHitting, Nested, Raster, Regions
from mmprime.engine.samplers.regions import disjoint, guidance_scales, temperatures

CANVAS = Canvas([Span("text", 4, Codec.base(9, 2)), Span("image", (4, 4), Codec.base(16, 2))])
TEXT, IMAGE = CANVAS.mask("text"), CANVAS.mask("image")
LEFT = CANVAS.mask("image", box=(0, 0, 2, 4))
FINE = CANVAS.mask("image", digits=[1])


def ranks(
    parts: list[Region], steps: int = 8, given: torch.Tensor | None = None, absent: torch.Tensor | None = None
) -> torch.Tensor:
    return Regions(steps, tuple(parts)).plan(start_of(CANVAS, 3, 5, given, absent)).rank


def test_each_region_keeps_to_its_window():
    rank = ranks([Region("left", LEFT, (0, 0.5)), Region("right", IMAGE & ~LEFT, (0.5, 1))])
    assert set(rank[:, LEFT].unique().tolist()) == {1, 2, 3, 4}
    assert set(rank[:, IMAGE & ~LEFT].unique().tolist()) == {5, 6, 7, 8}
    assert set(rank[:, TEXT].unique().tolist()) == set(range(1, 9))  # the rest has the whole run


def test_a_window_that_ends_between_two_steps_ends_at_the_nearest():
    """Of 5 steps a window to 0.5 holds 0.1 .. 0.5 in part: round(2.5) = 2 of them, and the next begins at the third."""
    for edge, last in ((0.5, 2), (0.55, 3), (0.3, 2), (0.29, 1)):
        first, second = Region("a", LEFT, (0, edge)), Region("b", IMAGE & ~LEFT, (edge, 1))
        assert first.steps(5) == list(range(1, last + 1))
        assert second.steps(5) == list(range(last + 1, 6))
        rank = ranks([first, second], steps=5)
        assert int(rank[:, LEFT].max()) == last
        assert int(rank[:, IMAGE & ~LEFT].min()) == last + 1


def test_the_background_stays_coarse_until_the_middle():
    rank = ranks([Region("fine background", FINE & ~LEFT, (0.5, 1), FirstHitting())])
    assert int(rank[:, FINE & ~LEFT].min()) == 5
    assert int(rank[:, IMAGE & ~FINE & ~LEFT].min()) == 1


def test_a_budget_is_spread_over_the_window_and_what_is_idle_is_dropped():
    assert Region("a", IMAGE, (0, 0.5), budget=2).steps(16) == [3, 7]
    assert Region("a", IMAGE, budget=1).steps(1) == [1]
    rank = ranks([Region("text", TEXT, budget=2), Region("image", IMAGE, (0.5, 1))])
    assert [len(rank[0, part].unique()) for part in (TEXT, IMAGE)] == [2, 4]
    assert int(rank.max()) == len(rank[0].unique()) <= 6


def test_an_order_inside_a_region():
    rank = ranks([Region("image", IMAGE, order=Raster())], steps=64)
    assert bool((rank[:, IMAGE].diff() > 0).all())
    coarse = ranks([Region("image", IMAGE, (0.25, 0.75), CoarseFirst())], steps=8)
    assert int(coarse[:, IMAGE & ~FINE].max()) <= 4 < int(coarse[:, FINE].min())
    assert set(coarse[:, IMAGE].unique().tolist()) == {3, 4, 5, 6}


def test_given_parts_are_given_and_absent_ones_absent():
    given = TEXT.expand(3, -1)
    rank = ranks([Region("left", LEFT, (0, 0.5))], given=given)
    assert bool((rank[:, TEXT] == 0).all())
    assert bool((rank[:, IMAGE] > 0).all())
    absent = ranks([Region("left", LEFT)], 4, absent=TEXT)
    assert bool((absent[:, TEXT] == ABSENT).all())


def test_the_distribution_is_exact_when_every_step_reveals_one_unit():
    world = oracle.mixed_world()
    mask = world.canvas.mask(world.canvas.spans[0].name)
    steps = 4 * world.canvas.num_subtokens
    parts = (Region("first", mask, (0, 0.5), Raster()), Region("second", ~mask, (0.5, 1), Nested()))
    plan = Regions(steps, parts).plan(start_of(world.canvas, 4000, 5))
    assert bool(((plan.rank[:, :, None] == plan.rank[:, None, :]).sum(-1) == 1).all())
    found = sample(oracle.perfect(world), world.canvas, plan, generator=6)
    oracle.assert_distribution(oracle.counts_of(world.index(found.y), len(world.p)), world.p)


def test_temperature_and_guidance_of_a_region():
    parts = [Region("left", LEFT, temperature=0.5, guidance=2.0), Region("text", TEXT, temperature=0.0)]
    heat = temperatures(CANVAS, parts, 1.0)
    assert [float(heat[mask].unique()) for mask in (LEFT, TEXT, IMAGE & ~LEFT)] == [0.5, 0.0, 1.0]
    guidance = guidance_scales(CANVAS, parts, Guidance({"text": 3.0, "image": 3.0}, "constant"))
    scale = guidance.scales(CANVAS)
    assert scale.tolist()[:4] == [3.0] * 4
    assert guidance.schedule == "constant"
    assert scale[4:].view(4, 4).tolist() == [[2.0, 2.0, 3.0, 3.0]] * 4
    assert temperatures(CANVAS, [Region("left", LEFT)], 0.7) == 0.7
    with pytest.raises(ValueError, match="'fine': guidance is for whole tokens"):
        guidance_scales(CANVAS, [Region("fine", FINE, guidance=1.0)], 3.0)


def test_an_overlap_with_the_same_rules_is_one_region():
    found = disjoint(CANVAS, [Region("left", LEFT, (0, 0.5)), Region("image", IMAGE, (0, 0.5))])
    assert torch.equal(found[1].mask, IMAGE & ~LEFT)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [Region("a", LEFT, (0, 0.5)), Region("b", IMAGE)],
            "'a' and 'b' overlap .at sub-token 8. with different rules",
        ),
        ([Region("a", LEFT), Region("a", TEXT)], "two regions are called 'a'"),
        ([Region("a", TEXT & LEFT)], "region 'a' is empty"),
        ([Region("a", TEXT, (0, 0.25)), Region("b", IMAGE, (0.5, 1))], "do not cover the run: at step 3 of 8"),
        ([Region("a", LEFT, (0.5, 0.52))], "the window 0.5 to 0.52 holds none of 8 steps"),
        ([Region("a", LEFT, (0, 0.5), budget=5)], "a budget of 5 steps, but the window 0 to 0.5 of 8 steps holds 4"),
    ],
)
def test_what_does_not_fit_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        ranks(parts)


def test_rules_out_of_range_are_refused():
    with pytest.raises(ValueError, match="a budget of 0 steps reveals nothing"):
        Region("a", LEFT, budget=0)
    with pytest.raises(ValueError, match=r"needs 0 <= start < stop <= 1, got 0.5, 0.5"):
        Region("a", LEFT, (0.5, 0.5))
    with pytest.raises(ValueError, match="has nothing to reveal: all of it is given"):
        ranks([Region("text", TEXT)], given=TEXT.expand(3, -1))
    with pytest.raises(ValueError, match="no word of a command line, got 'left'; --regions FILE gives them"):
        sampler_of("regions", {"parts": "left"}, 4)


class Fixed:
    """Four tokens it knows and four it knows nothing of, whatever is visible."""

    def __call__(self, y: torch.Tensor, canvas: Canvas, cond: object = None) -> torch.Tensor:
        sure = torch.arange(8) < 4
        return torch.where(sure[:, None], torch.tensor([50.0, 0, 0, 0]), torch.zeros(4)).expand(len(y), -1, -1)

    def logits(self, hidden: torch.Tensor, span: Span) -> torch.Tensor:
        return hidden


def test_the_entropy_budget_goes_to_the_uncertain():
    canvas = Canvas([Span("text", 8, Codec.base(4, 1))])
    found = sample(Fixed(), canvas, sampler_of("entropy_budget", steps=5), generator=3, batch=3)
    assert found.rank.tolist() == [[1, 1, 1, 1, 2, 3, 4, 5]] * 3
    short = sample(Fixed(), canvas, sampler_of("entropy_budget", steps=2), generator=3, batch=3)
    assert short.rank.tolist() == [[1, 1, 1, 1, 1, 1, 2, 2]] * 3
    assert short.nfe.tolist() == [2, 2, 2]
