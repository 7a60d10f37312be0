"""Every sampler by its name: it runs, in one step too, and takes its options from words."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import oracle
import pytest

from mmprime.engine import MASKINGS, SAMPLERS, Sampler, default_sampler, sample, sampler_of
from mmprime.engine.samplers import Nested, ReMDM, listing, sampler_from_words, sampler_words, with_steps

WORLD = oracle.mixed_world()
DENOISER = oracle.wrong(WORLD)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_each_fills_the_canvas(name, steps):
    sampler = sampler_of(name, steps=steps)
    record = sample(DENOISER, WORLD.canvas, sampler, generator=6, batch=12)
    WORLD.index(record.y)
    assert isinstance(sampler, Sampler)
    assert sampler.name == name
    assert int(record.nfe.max()) <= (steps if hasattr(sampler, "steps") else WORLD.canvas.num_subtokens)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_is_refused(name):
    if hasattr(sampler_of(name), "steps"):
        with pytest.raises(ValueError, match=r"steps must be at least 1, got 0"):
            sampler_of(name, steps=0)
    else:
        assert "the number of steps follows" in line_of(name)
        assert sampler_of(name, steps=0) == sampler_of(name)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_frozen_and_its_fields_are_its_options(name):
    sampler = sampler_of(name)
    options = {field.name: getattr(sampler, field.name) for field in fields(sampler)}
    assert sampler_of(name, options) == sampler
    for key in options:
        with pytest.raises(FrozenInstanceError):
            setattr(sampler, key, None)
        assert key == "steps" or f"{key}=" in line_of(name)


def line_of(name: str) -> str:
    return next(line for line in listing().splitlines() if line.split()[0] == name)


def test_options_are_words_with_the_type_of_their_default():
    assert sampler_of("remdm", {"eta": "0.25", "kind": "conf"}, 4) == ReMDM(4, "conf", 0.25)
    assert sampler_of("klass", {"history": "3"}).history == 3
    assert "[unit=digit, gamma=0.1]" in line_of("entropy_bounded")
    assert "plan=halton, rule=confidence" in line_of("mixture")


def test_a_number_of_steps_said_as_an_option_comes_first():
    assert sampler_of("nested", {"steps": "7"}, 4).steps == 7
    assert with_steps(Nested(3), 9) == Nested(9)
    assert with_steps(sampler_of("klass"), 9) == sampler_of("klass")


@pytest.mark.parametrize("masking", MASKINGS)
def test_a_model_is_sampled_in_the_order_it_was_trained_on(masking):
    sampler = default_sampler(masking, 5)
    assert sampler.name == {"independent": "first_hitting"}.get(masking, masking)
    assert sampler.steps == 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hop", {}, "unknown sampler 'hop'; there are ancestral"),
        ("margin", {"gamma": "1"}, "sampler 'margin' has no option 'gamma'; it has unit, pace"),
        ("klass", {"history": 2.5}, "sampler 'klass': history=2.5: give a whole number"),
        ("remdm", {"eta": "much"}, "sampler 'remdm': eta='much': could not convert string to float"),
        ("nested", {"pace": "steep"}, "unknown schedule 'steep'"),
        ("corrector", {"strength": "-1"}, "strength and power must be >= 0, got -1.0 and 0.5"),
        ("mixture", {"rule": "hope"}, "rule='hope': unknown sampler 'hope'; there are ancestral"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        sampler_of(name, options, 4)


def test_a_sampler_in_words_is_read_back() -> None:
    for words in ("p2", "p2 eta=0.5", "remdm eta=0.3", "first_hitting schedule=levels:1,4", "mixture rule=margin"):
        assert sampler_words(sampler_from_words(words.split())) == words
    assert sampler_words(sampler_of("p2", {}, 5)) == "p2"
