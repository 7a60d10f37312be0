"""Mixtures of masking processes and blends of objectives: the weighted sum, one draw an example."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusion_world import corpus, task
from model_world import make_canvas, make_model

from mmprime.engine import Canvas, Codec, DigitNoise, Rows, Schedule, Span, joint_loss, nelbo
from mmprime.engine.masking import IndependentMasking
from mmprime.training.config import ConfigError
from mmprime.training.model import build_canvas, build_model
from mmprime.training.objective import Objective, masking_process, maskings_of, start_objective
from mmprime.training.schema import CodecConfig, ObjectiveConfig
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

LEVELS = Canvas([Span("text", 3, Codec.base(7, 1)), Span("image", (2, 2), Codec.mixed_radix((2, 3, 4)))])


def world(examples: int = 1, canvas: Canvas | None = None) -> tuple:
    canvas = canvas or make_canvas(3, (2, 2))
    generator = torch.Generator().manual_seed(0)
    codes = {s.name: torch.randint(s.codec.num_codes, (1, s.num_tokens), generator=generator) for s in canvas.spans}
    return make_model(canvas), canvas, canvas.pack(codes).expand(examples, -1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_kind_and_one_masking_are_the_engines_own_to_the_bit() -> None:
    model, canvas, y0 = world(5)
    joint = Objective(ObjectiveConfig(masking="independent", mask_power=2.0), canvas, independent_spans=True)
    expected = joint_loss(
        model, canvas, y0, generator=seeded(1), masking="independent", independent_spans=True, mask_power=2
    )
    assert torch.equal(joint(model, Rows.of(canvas, y0), seeded(1)), expected)
    alone = Objective(ObjectiveConfig(mixture={"independent": 1, "nested": 0}, mask_power=2.0), canvas, True)
    assert torch.equal(alone(model, Rows.of(canvas, y0), seeded(1)), expected)
    finite = Objective(ObjectiveConfig(kind="finite", steps=3), canvas)
    expected = nelbo(model, canvas, y0, 3, "nested", generator=seeded(1))
    assert torch.equal(finite(model, Rows.of(canvas, y0), seeded(1)), expected)


def test_noise_is_an_option_of_the_joint_loss() -> None:
    model, canvas, y0 = world(5, LEVELS)
    rows, noise = Rows.of(canvas, y0), DigitNoise(0.5, (1, 2))
    config = ObjectiveConfig(noise=0.5, noise_levels=[1, 2])
    expected = joint_loss(model, canvas, y0, generator=seeded(1), masking="nested", noise=noise)
    assert torch.equal(Objective(config, canvas)(model, rows, seeded(1)), expected)
    assert not torch.equal(Objective(ObjectiveConfig(), canvas)(model, rows, seeded(1)), expected)
    config = ObjectiveConfig(noise=0.5, noise_levels=[1, 2], blend={"marginal": 1.0})
    with pytest.raises(ConfigError, match=r"objective.noise=0.5 is for objective.kind=joint"):
        Objective(config, canvas)


def test_soft_targets_and_a_mask_rate_are_options_of_the_joint_loss() -> None:
    canvas = Canvas([Span("image", (2, 2), Codec.product((2, 3, 4)))])
    model, canvas, y0 = world(5, canvas)
    rows, given = Rows.of(canvas, y0), {"mask_rate": "truncated_normal:0.8:0.2:0.3", "soft_targets": {"image": 0.7}}
    found = Objective(ObjectiveConfig(**given), canvas)(model, rows, seeded(1))
    assert torch.equal(found, joint_loss(model, canvas, y0, generator=seeded(1), masking="nested", **given))
    for name in given:
        one_less = ObjectiveConfig(**{key: value for key, value in given.items() if key != name})
        assert not torch.equal(found, Objective(one_less, canvas)(model, rows, seeded(1)))


def test_soft_targets_and_a_mask_rate_train_and_validation_is_that_of_a_run_without(tmp_path) -> None:
    """Twenty steps on codes of two digits."""
    config, data = task(tmp_path).config, corpus()
    data.validation["val"] = data.validation["val"].subset(8, 0)
    config.train = replace(config.train, steps=20, samples_every=0, save_every=0, validate_every=0)
    config.model = replace(config.model, span_heads={"image": "factored"})
    codecs = {"image": CodecConfig(kind="mixed_radix", radices=[4, 8]), "text": CodecConfig(kind="base", digits=1)}
    torch.manual_seed(0)
    canvas = build_canvas(data, codecs)
    model = build_model(canvas, config.model)
    goal = ObjectiveConfig(masking="independent", soft_targets={"image": 0.3}, mask_rate="truncated_normal:0.8:0.3:0.1")
    built = DiffusionTask(replace(config, objective=goal), data, canvas, model)
    plain = DiffusionTask(replace(config, objective=ObjectiveConfig(masking="independent")), data, canvas, model)
    with torch.no_grad():
        before = plain.validate(seeded(0))
    Trainer(built, built.config).run()
    with torch.no_grad():
        after = plain.validate(seeded(0))
        assert built.validate(seeded(0)) == after
    assert after[built.best_metric] < before[built.best_metric] - 0.05


@torch.no_grad()
def test_a_mixture_and_a_blend_have_the_mean_of_the_weighted_sum() -> None:
    model, canvas, y0 = world(8000)
    mixture, blend = {"nested": 0.25, "token_synchronous": 0.75}, {"joint": 0.4, "marginal": 0.6}
    mixed = Objective(ObjectiveConfig(mixture=mixture, blend=blend), canvas)
    values = mixed(model, Rows.of(canvas, y0), seeded(0))
    expected, apart = 0.0, []
    for masking, share in mixture.items():
        joint = joint_loss(model, canvas, y0, generator=seeded(2), masking=masking).mean()
        marginal = nelbo(model, canvas, y0, masking=masking, generator=seeded(3)).mean()
        expected += share * (blend["joint"] * float(joint) + blend["marginal"] * float(marginal))
        apart += [float(joint), float(marginal)]
    error = 4 * float(values.std()) / 8000**0.5
    assert abs(float(values.mean()) - expected) < error < 0.3 * (max(apart) - min(apart))


def test_level_powers_reach_every_kind() -> None:
    model, canvas, y0 = world(5, LEVELS)
    powers = [1.0, 2.0, 0.5]
    masking = IndependentMasking(Schedule.levels(powers, canvas))
    calls = {
        "joint": lambda g: joint_loss(model, canvas, y0, generator=g, masking=masking),
        "marginal": lambda g: nelbo(model, canvas, y0, masking=masking, generator=g),
        "finite": lambda g: nelbo(model, canvas, y0, 3, masking, generator=g),
    }
    for kind, expected in calls.items():
        config = ObjectiveConfig(kind=kind, masking="independent", steps=3, level_powers=powers)
        values = Objective(config, canvas)(model, Rows.of(canvas, y0), seeded(1))
        assert torch.equal(values, expected(seeded(1)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"masking": "nested"}, r"level_powers=\[1.0, 2.0, 0.5\].*masking 'nested'.*set objective.masking=independent"),
        ({"masking": "independent", "mixture": {"independent": 0.5, "coarse_first": 0.5}}, "masking 'coarse_first'"),
        ({"masking": "independent", "level_powers": [1.0, 2.0]}, r"objective.level_powers: .*\[1.0, 2.0\]"),
        (
            {"masking": "nested", "level_powers": [], "learned_steps": 8},
            "learned_steps=8.*'nested'.*masking=independent",
        ),
        ({"masking": "independent", "level_powers": [], "learned_steps": 1}, "learned_steps=1: one step"),
    ],
)
def test_level_powers_that_do_not_fit_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        masking_process(ObjectiveConfig(**({"level_powers": [1.0, 2.0, 0.5]} | options)), LEVELS)


def test_masks_and_labels_go_with_their_examples() -> None:
    """What is given costs nothing, whichever masking an example draws; gradients reach every example's own nats."""
    canvas = make_canvas(3, (2, 2))
    model = make_model(canvas, num_classes=4)
    _, _, y0 = world(12)
    given = torch.arange(12)[:, None].remainder(3).eq(0).expand(-1, canvas.num_subtokens)
    mixed = Objective(ObjectiveConfig(mixture={"nested": 0.5, "independent": 0.5}), canvas)
    cond = {"label": torch.arange(12) % 4}
    nats = mixed(model, Rows.of(canvas, y0, given, None, cond), seeded(0))
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
        ({"kind": "marginal", "mask_rate": "arccos"}, "objective.mask_rate=arccos is for objective.kind=joint"),
        ({"mask_rate": "arcos"}, "objective.mask_rate=arcos: no mask rate 'arcos'; there are arccos"),
        ({"mask_rate": "arccos", "mask_power": 2.0}, "mask_power=2 and mask_rate='arccos'"),
        ({"kind": "finite", "soft_targets": {"image": 1.0}}, "soft_targets={'image': 1.0} is for objective.kind=joint"),
        ({"soft_targets": {"pixels": 1.0}}, r"soft_targets={'pixels': 1.0}: no span 'pixels' .*'text', 'image'"),
        ({"noise_levels": [1]}, r"objective.noise_levels=\[1\] without objective.noise"),
        ({"noise": 0.3, "noise_levels": [3]}, "objective.noise=0.3: digit level 3 is none of 0 to 2"),
        ({"blend": {"joint": 0.5, "marginal": 0.5}, "independent": True}, "kind=marginal .*independent_times=false"),
    ],
)
def test_what_is_no_distribution_or_fits_no_kind_is_refused(options: dict, words: str) -> None:
    independent = options.pop("independent", False)
    with pytest.raises(ConfigError, match=words):
        Objective(ObjectiveConfig(**options), LEVELS, independent)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_masking": "nestd", "start_share": 0.5}, "objective.start_masking=nestd: not one of .*nearest: nested"),
        ({"start_masking": "nested"}, "start_share=0 with objective.start_masking='nested': set both"),
        ({"start_share": 0.5}, "start_share=0.5 with objective.start_masking='': set both"),
        ({"start_masking": "nested", "start_share": 1.5}, r"start_share=1.5 .*a share in \(0, 1\]"),
    ],
)
def test_a_start_that_is_none_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start_objective(ObjectiveConfig(**options), LEVELS, 100)


def test_the_maskings_trained_on_are_those_of_the_mixture_and_the_start() -> None:
    assert maskings_of(ObjectiveConfig(masking="nested")) == ["nested"]
    mixture = {"nested": 0.5, "independent": 0.5, "coarse_first": 0.0}
    config = ObjectiveConfig(masking="nested", mixture=mixture, start_masking="token_synchronous", start_share=0.5)
    assert maskings_of(config) == ["independent", "nested", "token_synchronous"]
