"""Every sampler by its name: it runs, in one step too, and takes its options from words."""

from __future__ import annotations

import oracle
import pytest

from mmprime.cli import console
from mmprime.engine import Plan, Policy, sample
from mmprime.engine.samplers.registry import SAMPLERS, Request, build, describe, options_of

WORLD = oracle.mixed_world()
DENOISER = oracle.wrong(WORLD)


def test_the_command_line_knows_all_of_them():
    assert tuple(SAMPLERS) == console.PLANS


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_each_fills_the_canvas(name, steps):
    plan = build(name, Request(WORLD.canvas, 12, steps, 5))
    record = sample(DENOISER, WORLD.canvas, plan, generator=6, batch=12)
    WORLD.index(record.y)
    assert isinstance(plan, (Plan, Policy))
    if "steps" in describe(name).split("[")[0] and "follows" in describe(name):
        assert int(record.nfe.max()) <= WORLD.canvas.num_subtokens
    else:
        assert int(record.nfe.max()) <= steps


@pytest.mark.parametrize("name", [name for name in SAMPLERS if "steps follows" not in describe(name)])
def test_no_step_is_refused(name):
    with pytest.raises(ValueError, match=r"(at least|>= 1|none of).*\b0\b"):
        build(name, Request(WORLD.canvas, 2, 0, 5))


def test_options_are_words_with_the_type_of_their_default():
    request = Request(WORLD.canvas, 2, 4)
    assert build("remdm", request, {"eta": "0.25", "kind": "conf"}).eta == 0.25
    assert build("klass", request, {"history": "3"}).history == 3
    assert options_of("entropy_bounded") == {"gamma": 0.1, "unit": "digit"}
    assert "[gamma=0.1, unit=digit]" in describe("entropy_bounded")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hop", {}, "unknown sampler 'hop'; there are ancestral"),
        ("margin", {"gamma": "1"}, "sampler 'margin' has no option 'gamma'; it has pace, unit"),
        ("remdm", {"eta": "much"}, "remdm: eta='much' is no float"),
        ("nested", {"pace": "steep"}, "unknown schedule 'steep'"),
        ("corrector", {"strength": "-1"}, "strength and power must be >= 0, got -1.0 and 0.5"),
        ("mixture", {"rule": "hope"}, "unknown rule 'hope'; there are confidence, margin, entropy"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, Request(WORLD.canvas, 2, 4), options)
