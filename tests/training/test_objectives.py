"""Mixtures of laws and blends of objectives: the weighted sum, one draw an example."""

from __future__ import annotations

import pytest
import torch
from model_world import make_canvas, make_model

from mmprime.engine import Canvas, Codec, Schedule, Span, joint_loss, nelbo
from mmprime.training.config import ConfigError
from mmprime.training.objective import Objective, laws_of, place_schedule, start_objective
from mmprime.training.schema import ObjectiveConfig

PLACED = Canvas([Span("text", 3, Codec.base(7, 1)), Span("image", (2, 2), Codec.mixed_radix((2, 3, 4)))])


def world(examples: int = 1, canvas: Canvas | None = None) -> tuple:
    canvas = canvas or make_canvas(3, (2, 2))
    generator = torch.Generator().manual_seed(0)
    codes = {s.name: torch.randint(s.codec.num_codes, (1, s.num_tokens), generator=generator) for s in canvas.spans}
    return make_model(canvas), canvas, canvas.pack(codes).expand(examples, -1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_kind_and_one_law_are_the_engines_own_to_the_bit() -> None:
    model, canvas, y0 = world(5)
    joint = Objective(ObjectiveConfig(law="independent", mask_power=2.0), independent_spans=True)
    expected = joint_loss(
        model, canvas, y0, generator=seeded(1), law="independent", independent_spans=True, mask_power=2
    )
    assert torch.equal(joint(model, canvas, y0, seeded(1)), expected)
    alone = Objective(ObjectiveConfig(mixture={"independent": 1, "nested": 0}, mask_power=2.0), True)
    assert torch.equal(alone(model, canvas, y0, seeded(1)), expected)
    finite = Objective(ObjectiveConfig(kind="finite", steps=3))
    assert torch.equal(finite(model, canvas, y0, seeded(1)), nelbo(model, canvas, y0, 3, "nested", generator=seeded(1)))


@torch.no_grad()
def test_a_mixture_and_a_blend_have_the_mean_of_the_weighted_sum() -> None:
    model, canvas, y0 = world(8000)
    mixture, blend = {"nested": 0.25, "token_synchronous": 0.75}, {"joint": 0.4, "marginal": 0.6}
    mixed = Objective(ObjectiveConfig(mixture=mixture, blend=blend))
    values = mixed(model, canvas, y0, seeded(0))
    expected, apart = 0.0, []
    for law, share in mixture.items():
        joint = joint_loss(model, canvas, y0, generator=seeded(2), law=law).mean()
        marginal = nelbo(model, canvas, y0, law=law, generator=seeded(3)).mean()
        expected += share * (blend["joint"] * float(joint) + blend["marginal"] * float(marginal))
        apart += [float(joint), float(marginal)]
    error = 4 * float(values.std()) / 8000**0.5
    assert abs(float(values.mean()) - expected) < error < 0.3 * (max(apart) - min(apart))


def test_place_powers_reach_every_kind() -> None:
    model, canvas, y0 = world(5, PLACED)
    powers = [1.0, 2.0, 0.5]
    schedule = Schedule.places(powers, canvas)
    calls = {
        "joint": lambda g: joint_loss(model, canvas, y0, generator=g, schedule=schedule),
        "marginal": lambda g: nelbo(model, canvas, y0, generator=g, schedule=schedule, by_count=True),
        "finite": lambda g: nelbo(model, canvas, y0, 3, generator=g, schedule=schedule),
    }
    for kind, expected in calls.items():
        config = ObjectiveConfig(kind=kind, law="independent", steps=3, place_powers=powers)
        objective = Objective(config, schedule=place_schedule(config, canvas))
        assert torch.equal(objective(model, canvas, y0, seeded(1)), expected(seeded(1)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"law": "nested"}, r"place_powers=\[1.0, 2.0, 0.5\].*law 'nested'.*set objective.law=independent"),
        ({"law": "independent", "mixture": {"independent": 0.5, "coarse_first": 0.5}}, "law 'coarse_first'"),
        ({"law": "independent", "place_powers": [1.0, 2.0]}, r"objective.place_powers: .*\[1.0, 2.0\]"),
    ],
)
def test_place_powers_that_do_not_fit_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        place_schedule(ObjectiveConfig(**({"place_powers": [1.0, 2.0, 0.5]} | options)), PLACED)


def test_masks_and_labels_go_with_their_examples() -> None:
    """What is given costs nothing, whichever law an example draws; gradients reach every example's own nats."""
    canvas = make_canvas(3, (2, 2))
    model = make_model(canvas, num_classes=4)
    _, _, y0 = world(12)
    given = torch.arange(12)[:, None].remainder(3).eq(0).expand(-1, canvas.num_subtokens)
    mixed = Objective(ObjectiveConfig(mixture={"nested": 0.5, "independent": 0.5}))
    cond = {"label": torch.arange(12) % 4}
    nats = mixed(model, canvas, y0, seeded(0), given, torch.zeros_like(given), cond)
    assert torch.equal(nats == 0, given[:, 0])
    nats.sum().backward()
    assert bool((model.conditioning.label.weight.grad.norm(dim=-1)[:4] > 0).all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mixture": {"nestd": 1.0}}, "objective.mixture.nestd: not one of .*nearest: nested"),
        ({"mixture": {"nested": 0.5, "independent": 0.4}}, r"objective.mixture: .* add up to 0.9, not 1"),
        ({"mixture": {"nested": 1.5, "independent": -0.5}}, "objective.mixture.independent=-0.5"),
        ({"blend": {"joint": 0.5, "other": 0.5}}, "objective.blend.other"),
        ({"blend": {"finite": 0.5, "marginal": 0.5}, "mask_power": 2.0}, "mask_power=2"),
        ({"blend": {"joint": 0.5, "marginal": 0.5}, "independent": True}, "kind=marginal .*independent_times=false"),
    ],
)
def test_what_is_no_distribution_or_fits_no_kind_is_refused(options: dict, words: str) -> None:
    independent = options.pop("independent", False)
    with pytest.raises(ConfigError, match=words):
        Objective(ObjectiveConfig(**options), independent)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_law": "nestd", "start_share": 0.5}, "objective.start_law=nestd: not one of .*nearest: nested"),
        ({"start_law": "nested"}, "start_share=0 with objective.start_law='nested': set both"),
        ({"start_share": 0.5}, "start_share=0.5 with objective.start_law='': set both"),
        ({"start_law": "nested", "start_share": 1.5}, r"start_share=1.5 .*a share in \(0, 1\]"),
    ],
)
def test_a_start_that_is_none_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start_objective(ObjectiveConfig(**options), 100)


def test_the_laws_trained_on_are_those_of_the_mixture_and_the_start() -> None:
    assert laws_of(ObjectiveConfig(law="nested")) == ["nested"]
    mixture = {"nested": 0.5, "independent": 0.5, "coarse_first": 0.0}
    config = ObjectiveConfig(law="nested", mixture=mixture, start_law="token_synchronous", start_share=0.5)
    assert laws_of(config) == ["independent", "nested", "token_synchronous"]
