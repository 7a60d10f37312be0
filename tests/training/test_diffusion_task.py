import math
import signal

import pytest
import torch
from diffusion_world import IMAGE, TEXT, corpus, sampled, task

from mmprime.engine import MASKINGS, Guidance, default_sampler, sampler_of
from mmprime.generation.defaults import read_sampling
from mmprime.models import load_model
from mmprime.training.conditions import Conditions
from mmprime.training.config import ConfigError
from mmprime.training.model import build_canvas
from mmprime.training.schema import (
    CodecConfig,
    ConditionsConfig,
    ObjectiveConfig,
    SamplesConfig,
)
from mmprime.training.trainer import Trainer


def test_untrained_bounds_are_ln_c_and_are_told_beside_it(tmp_path):
    untrained = task(tmp_path)
    with torch.no_grad():
        metrics = untrained.validate(torch.Generator().manual_seed(0))
    assert metrics["val/nelbo/image|text"] == pytest.approx(math.log(IMAGE), rel=0.1)
    assert metrics["val/nelbo/text|image"] == pytest.approx(math.log(TEXT), rel=0.1)
    assert metrics["val/nelbo_token_synchronous"] == pytest.approx(math.log(IMAGE), rel=0.02)
    report = untrained.report(metrics, 0)
    assert "untrained" in report
    assert f"(ln C = {math.log(IMAGE):.4f})" in report
    assert "joint loss (no bound)" in report
    assert untrained.best_metric in metrics


@torch.no_grad()
def test_padding_is_not_counted_and_the_log_says_so(tmp_path):
    """Two of four positions of a text are padding: the same nats stand for half as many tokens, under other names."""
    plain, padded = task(tmp_path), task(tmp_path, tokens=2)
    before, after = (built.validate(torch.Generator().manual_seed(0)) for built in (plain, padded))
    assert after["val/nelbo/text|image (text and end)"] == pytest.approx(2 * before["val/nelbo/text|image"])
    assert after["val/nelbo/text|image (text and end)_se"] == pytest.approx(2 * before["val/nelbo/text|image_se"])
    assert after["val/nelbo/joint (codes, text and end)"] == pytest.approx(13 / 11 * before["val/nelbo/joint"])
    assert after["val/nelbo/image|text"] == before["val/nelbo/image|text"]
    assert "val/nelbo/text|image" not in after
    report = padded.report(after, 0)
    assert f"(ln C = {math.log(IMAGE):.4f})" in report
    assert f"(ln C, padding included = {2 * math.log(TEXT):.4f})" in report
    (_, loss, modes), (_, same, others) = (
        next(iter(built.losses(torch.arange(64), torch.Generator().manual_seed(1), 0))) for built in (padded, plain)
    )
    assert float(loss) == float(same)  # what is minimised weighs positions
    assert modes["joint/image_given (text and end)"] == pytest.approx(2 * others["joint/image_given"])
    assert modes["joint/text_given"] == others["joint/text_given"]


def test_each_mode_shows_hides_and_scores_what_its_name_says(tmp_path):
    built = task(tmp_path)
    text, image = built.canvas.mask("text"), built.canvas.mask("image")
    rows = {
        name: (built.conditions.given[i], built.conditions.absent[i]) for i, name in enumerate(built.conditions.names)
    }
    assert torch.equal(rows["text_given"][0], text)
    assert torch.equal(rows["text_absent"][1], text)
    assert torch.equal(rows["image_given"][0], image)
    assert not (rows["joint"][0] | rows["joint"][1]).any()
    assert dict(zip(built.conditions.names, built.conditions.tokens.tolist())) == {
        "text_given": 9, "text_absent": 9, "image_given": 4, "joint": 13
    }  # fmt: skip
    seen = []
    forward = built.modules.forward
    built.modules.forward = lambda y, canvas, cond=None: (seen.append(y), forward(y, canvas, cond))[1]
    generator = torch.Generator().manual_seed(1)
    _, _, metrics = next(iter(built.losses(torch.arange(64), generator, 0)))
    assert {"joint/text_given", "joint/text_absent", "joint/image_given", "joint/joint"} == set(metrics)
    visible = (seen[0][:, text] >= 0).float().mean(-1)
    assert (visible == 1).sum() >= 32  # half of 64 have the text given
    assert (visible == 0).sum() >= 6  # a tenth has it absent


def test_shares_of_modes_are_exact_in_a_batch(tmp_path):
    built = task(tmp_path)
    counts = built.conditions.sample(100, torch.Generator().manual_seed(0)).bincount()
    assert dict(zip(built.conditions.names, counts.tolist())) == pytest.approx(
        {"text_given": 50, "text_absent": 10, "image_given": 20, "joint": 20}, abs=1
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_given": 0.8, "image_given": 0.3}, "more than 1"),
        ({"text_given": -0.1}, "text_given"),
    ],
)
def test_conditions_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        Conditions(task(tmp_path).canvas, ConditionsConfig(**settings))


def test_a_bound_objective_refuses_independent_times(tmp_path):
    with pytest.raises(ConfigError, match="independent_times=false"):
        task(tmp_path, objective=ObjectiveConfig(kind="marginal"))


@pytest.mark.parametrize("kind", ["marginal", "finite"])
def test_the_other_objectives_are_the_named_bounds(tmp_path, kind):
    conditions = ConditionsConfig(independent_times=False)
    built = task(tmp_path, conditions=conditions, objective=ObjectiveConfig(kind=kind, steps=4))
    losses = [next(iter(built.losses(torch.arange(200), torch.Generator().manual_seed(i), 0)))[1] for i in range(8)]
    uniform = (4 * math.log(TEXT) + 9 * math.log(IMAGE)) / 13
    assert torch.stack(losses).mean().item() == pytest.approx(uniform, rel=0.05)


def test_training_learns_and_leaves_samples_and_a_model(tmp_path):
    built = task(tmp_path)
    trainer = Trainer(built, built.config)
    with torch.no_grad():
        before = built.validate(torch.Generator().manual_seed(0))
    outcome = trainer.run()
    key = built.best_metric
    assert outcome.metrics[key] < before[key] - 0.3
    assert (tmp_path / "samples/step_00000040.safetensors").exists()
    trainer.export(tmp_path / "model")
    model, canvas, config = load_model(tmp_path / "model")
    assert config["data"] == ".."
    assert config["words"][-1] == "word"
    y = torch.full((2, canvas.num_subtokens), -1)
    with trainer.ema.swapped_in(), torch.no_grad():
        torch.testing.assert_close(model(y, canvas), built.modules(y, canvas), rtol=2e-2, atol=2e-2)
    assert (tmp_path / "model/training.json").exists()


@pytest.mark.parametrize("masking", MASKINGS)
def test_every_masking_is_sampled_in_its_order_and_told_with_the_model(tmp_path, masking):
    built = task(tmp_path, objective=ObjectiveConfig(masking=masking))
    codes = sampled(built)
    assert codes.shape == (40, 9)
    assert bool(((codes >= 0) & (codes < IMAGE)).all())
    built.export(tmp_path / "model")
    config = load_model(tmp_path / "model")[2]
    assert config["masking"] == masking
    assert config["trained_on"] == [masking]
    read = read_sampling(tmp_path / "model", built.canvas, masking)
    assert read["image"].chosen(default_sampler("nested")) == default_sampler(masking, 4)


def test_the_section_samples_is_what_the_model_folder_says(tmp_path):
    chosen = SamplesConfig(sampler="p2", options={"eta": 0.5}, steps=6, guidance=2.0, temperature=0.9)
    built = task(tmp_path, samples=chosen)
    built.export(tmp_path)
    read = read_sampling(tmp_path, built.canvas, "nested")
    for name, guidance in (("image", 2.0), ("text", 0.0)):  # no image was left out in training
        assert read[name].chosen(default_sampler("nested")) == sampler_of("p2", {"eta": 0.5}, 6)
        assert read[name].temperature == 0.9
        assert Guidance.of(read[name].guidance).scale == guidance
    with pytest.raises(ConfigError, match=r"samples\.sampler=p3: unknown sampler"):
        task(tmp_path, samples=SamplesConfig(sampler="p3"))


def test_rows_are_packed_once_as_narrow_as_their_digits(tmp_path):
    built = task(tmp_path)
    codes = {name: x.long() for name, x in built.corpus.train.codes.items()}
    assert torch.equal(built.train.y(built.canvas), built.canvas.pack(codes))
    assert {x.dtype for x in built.train.codes.values()} == {torch.int16}


def test_labels_are_dropped_at_their_rate(tmp_path):
    built = task(tmp_path, num_classes=5, conditions=ConditionsConfig(label_dropout=0.25))
    cond = built._drop_labels({"label": torch.zeros(4000, dtype=torch.int64)}, torch.Generator().manual_seed(0))
    assert set(cond["label"].tolist()) == {0, 5}
    assert float((cond["label"] == 5).float().mean()) == pytest.approx(0.25, abs=0.03)
    _, loss, _ = next(iter(built.losses(torch.arange(32), torch.Generator().manual_seed(0), 0)))
    assert torch.isfinite(loss)


def test_a_clustered_codec_is_kept_and_read_back(tmp_path):
    data = corpus()
    first = build_canvas(data, {}, cache=tmp_path).span("image").codec
    stored = list((tmp_path / "codecs").glob("image-*.safetensors"))
    assert len(stored) == 1
    assert first.num_digits == 2
    other = corpus()
    other.train.codes["image"].random_(0, IMAGE)  # what is stored wins over what would be built now
    assert build_canvas(other, {}, cache=tmp_path).span("image").codec == first
    assert build_canvas(other, {}).span("image").codec != first


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"imgae": CodecConfig()}, "nearest: image"),
        ({"text": CodecConfig(source="codebook")}, "source=codebook"),
        ({"image": CodecConfig(kind="mixed_radix", radices=[2, 3])}, "model.codec.image"),
    ],
)
def test_codec_mistakes_name_their_key(section, message):
    with pytest.raises(ConfigError, match=message):
        build_canvas(corpus(), section)


def test_muon_steps_the_trunk_and_resumes_bitwise(tmp_path):
    def run(directory, stop=None):
        built = task(directory)
        built.config.train.optimizer = "muon"
        built.config.train.steps = 6
        trainer = Trainer(built, built.config)
        losses = built.losses

        def interrupting(indices, generator, step):
            if step == stop:
                trainer.stop.signal = signal.SIGTERM
            return losses(indices, generator, step)

        built.losses = interrupting
        trainer.run()
        return trainer

    straight = run(tmp_path / "a")
    muon, adamw = straight.optimizers["muon/model"], straight.optimizers["model"]
    matrices = {id(p) for p in muon.param_groups[0]["params"]}
    assert matrices == {id(p) for p in straight.task.modules.blocks.parameters() if p.ndim == 2}
    assert not matrices & {id(p) for group in adamw.param_groups for p in group["params"]}
    run(tmp_path / "b", stop=2)
    resumed = run(tmp_path / "b")
    assert resumed.at.step == 6
    for name, value in straight.task.modules.state_dict().items():
        assert torch.equal(value, resumed.task.modules.state_dict()[name]), name


def test_the_bound_printed_is_that_of_the_judged_masking_whatever_is_trained_on(tmp_path):
    def bounds(objective):
        built = task(tmp_path, objective=objective)
        with torch.no_grad():
            built.modules.heads["image"].linear.weight.normal_(generator=torch.Generator().manual_seed(0))
            return built.validate(torch.Generator().manual_seed(0))

    plain = bounds(ObjectiveConfig(masking="nested"))
    assert bounds(ObjectiveConfig(masking="nested", mixture={"independent": 1.0})) == plain
    assert bounds(ObjectiveConfig(masking="independent")) != plain


def test_the_first_steps_train_on_the_start_masking_and_the_others_do_not(tmp_path):
    def loss(step, **objective):
        built = task(tmp_path, objective=ObjectiveConfig(**objective))
        with torch.no_grad():
            built.modules.heads["image"].linear.weight.normal_(generator=torch.Generator().manual_seed(0))
            ((_, value, _),) = built.losses(torch.arange(8), torch.Generator().manual_seed(0), step)
        return float(value)

    start = {"start_masking": "token_synchronous", "start_share": 0.3}
    halves = {"mixture": {"nested": 0.5, "independent": 0.5}}
    assert [loss(step, **start, **halves) for step in (0, 11)] == [loss(0, masking="token_synchronous")] * 2
    assert [loss(step, **start, **halves) for step in (12, 39)] == [loss(0, **halves)] * 2
    assert loss(0, **halves) != loss(0, masking="token_synchronous")
