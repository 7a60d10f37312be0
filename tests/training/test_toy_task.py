import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mmprime.cli import draw_toy
from mmprime.engine import exact_nelbo, masking_of
from mmprime.training.config import ConfigError, load_config
from mmprime.training.schema import (
    CodecConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    ToyConfig,
    ToyRunConfig,
    TrainConfig,
)
from mmprime.training.tasks.toy import Distinct, ToyTask
from mmprime.training.trainer import Trainer


def config(directory, **objective) -> ToyRunConfig:
    return ToyRunConfig(
        task="toy",
        run=RunConfig(dir=str(directory)),
        train=TrainConfig(steps=60, batch=128, lr=3e-3, warmup=5, ema=0.9, validate_every=60, samples_every=0),
        toy=ToyConfig(tokens=2, codes=6),
        model=ModelConfig(preset="nano", codec={"text": CodecConfig(kind="mixed_radix", radices=[3, 2])}),
        objective=ObjectiveConfig(**objective),
    )


@pytest.mark.parametrize("masking", ["nested", "token_synchronous", "coarse_first"])
def test_the_learned_bound_falls_towards_the_entropy_and_never_below(tmp_path, masking):
    torch.manual_seed(0)
    task = ToyTask(config(tmp_path, masking=masking))
    with torch.no_grad():
        start = task.validate(torch.Generator())
    assert start["bound"] == pytest.approx(2 * torch.tensor(6.0).log().item(), rel=1e-5)  # uniform over codes
    metrics = Trainer(task, task.config).run().metrics
    assert task.entropy <= metrics["bound"] < start["bound"] - 0.2
    assert f"exact entropy {task.entropy:.4f}" in task.conclude(metrics)


@pytest.mark.parametrize("draws", [0, 4000])
def test_level_powers_are_judged_by_their_own_bound(tmp_path, draws):
    settings = config(tmp_path, masking="independent", level_powers=[0.5, 3.0], steps=3)
    settings.toy.samples = draws
    task = ToyTask(settings)
    with torch.no_grad():
        for p in task.modules.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        metrics = task.validate(torch.Generator().manual_seed(0))
        for name, steps in (("bound", None), ("bound_finite", 3)):
            exact = exact_nelbo(task.modules, task.canvas, task._rows(slice(None)), steps, task.objective.masking).bound
            plain = exact_nelbo(task.modules, task.canvas, task._rows(slice(None)), steps).bound
            value = float(exact.double() @ task.table)
            assert abs(metrics[name] - value) < 3 * metrics[f"{name}_se"] + 1e-5
            assert value >= task.entropy
            assert abs(value - float(plain.double() @ task.table)) > 1e-3 or steps is None


def test_training_draws_from_the_table(tmp_path):
    task = ToyTask(config(tmp_path))
    seen, rows = [], task._rows
    task._rows = lambda index: (seen.append(task.states[index]), rows(index))[1]
    next(iter(task.losses(torch.arange(20_000), torch.Generator().manual_seed(0), 0)))
    states = (seen[0] * torch.tensor([6, 1])).sum(-1)
    frequency = states.bincount(minlength=36) / 20_000
    assert float((frequency - task.table).abs().sum() / 2) < 0.02  # total variation
    assert float(task.table.sum()) == pytest.approx(1)


# ---------------------------------------------------------------- a picture as the table


def write_grey(path, side=8):
    """A picture of side x side pixels whose grey levels are 0 (never drawn), 1 and 3; returns them."""
    grey = np.ones((side, side), dtype=np.uint8)
    grey[: side // 2, : side // 2] = 3
    grey[side // 2 :, side // 2 :] = 0
    Image.fromarray(grey).save(path)
    return grey


def picture_config(tmp_path, digits, **toy) -> ToyRunConfig:
    write_grey(tmp_path / "grey.png")
    toy = {"tokens": 2, "codes": 8, "picture": str(tmp_path / "grey.png"), **toy}
    return dataclasses.replace(
        config(tmp_path / "run", masking="independent", steps=4),
        toy=ToyConfig(**toy),
        model=ModelConfig(preset="nano", depth=1, codec={"text": CodecConfig(kind="base", digits=digits)}),
    )


def test_a_picture_is_the_table_and_its_entropy_is_known(tmp_path):
    task = ToyTask(picture_config(tmp_path, 1))
    assert task.num_examples == 48  # black pixels are no states
    assert float(task.table.sum()) == pytest.approx(1)
    # 16 pixels of 3/80, 32 of 1/80
    assert task.entropy == pytest.approx(-(48 / 80 * math.log(3 / 80) + 32 / 80 * math.log(1 / 80)))
    dark = dict(zip(map(tuple, task.states.tolist()), task.table.tolist()))
    assert dark[0, 0] == pytest.approx(3 / 80)
    assert dark[0, 7] == dark[7, 0] == pytest.approx(1 / 80)
    assert (7, 7) not in dark


@pytest.mark.parametrize("digits", [1, 2])
def test_estimated_bounds_agree_with_exact_ones(tmp_path, monkeypatch, digits):
    torch.manual_seed(0)
    task = ToyTask(picture_config(tmp_path, digits, samples=1000))
    for head in task.modules.heads.values():
        torch.nn.init.normal_(head.linear.weight, std=0.3)
    with torch.no_grad():
        exact = task._bound(masking_of("independent"), None, torch.Generator())
        finite = task._bound(masking_of("independent"), 2, torch.Generator())
        monkeypatch.setattr("mmprime.training.tasks.toy.MOST_ROWS", 0)
        estimate = task._bound(masking_of("independent"), None, torch.Generator().manual_seed(0))
        finite_estimate = task._bound(masking_of("independent"), 2, torch.Generator().manual_seed(0))
    assert exact.stderr == finite.stderr == 0
    assert exact.value > task.entropy
    assert 0 < estimate.stderr < 0.1
    assert abs(estimate.value - exact.value) < 3.5 * estimate.stderr
    assert abs(finite_estimate.value - finite.value) < 3.5 * finite_estimate.stderr


def test_forwarding_equal_rows_once_changes_nothing(tmp_path):
    torch.manual_seed(0)
    task = ToyTask(picture_config(tmp_path, 3))
    for head in task.modules.heads.values():
        torch.nn.init.normal_(head.linear.weight, std=0.3)
    y0 = task._rows(torch.tensor([0, 0, 5, 0, 47]))
    with torch.no_grad():
        plain = exact_nelbo(task.modules, task.canvas, y0, masking="token_synchronous").bound
        assert torch.allclose(
            exact_nelbo(Distinct(task.modules), task.canvas, y0, masking="token_synchronous").bound, plain
        )


@pytest.mark.parametrize("digits", [1, 2])
def test_a_learned_picture_prints_every_bound_above_the_entropy(tmp_path, monkeypatch, digits):
    torch.manual_seed(0)
    monkeypatch.setattr("mmprime.training.tasks.toy.PICTURE_SAMPLES", 50)
    settings = picture_config(tmp_path, digits, samples=200)
    train = dataclasses.replace(settings.train, steps=20, batch=32, samples_every=20, validate_every=20)
    settings = dataclasses.replace(settings, train=train)
    task = ToyTask(settings)
    metrics = Trainer(task, settings).run().metrics
    for name in ("bound", "bound_finite", "bound_token_synchronous"):
        assert metrics[name] >= task.entropy - 3 * metrics[f"{name}_se"] - 1e-6
        assert metrics[name] < 2 * math.log(8)
    if digits == 1:
        assert metrics["bound"] == metrics["bound_token_synchronous"]
        assert metrics["bound_se"] == 0
    told = task.conclude(metrics)
    assert f"exact entropy {task.entropy:.4f}" in told
    assert "joint loss (no bound)" in told
    assert "T = 4 " in told
    assert np.array(Image.open(tmp_path / "run/samples/truth.png")).shape == (8, 8)
    assert (tmp_path / "run/samples/model_step20.png").is_file()


def test_a_value_below_the_entropy_is_said_to_be_no_bound(tmp_path):
    task = ToyTask(config(tmp_path))
    metrics = dict.fromkeys(("bound", "bound_token_synchronous", "joint_loss"), task.entropy - 0.1)
    assert "BELOW" in task.conclude(metrics)
    assert "BELOW" not in task.conclude({**metrics, "bound_se": 0.05})


def test_pictures_and_codecs_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has 8 x 8 pixels: it needs toy.tokens=2 \(is 2\).*toy.codes \(is 16\)"):
        ToyTask(picture_config(tmp_path, 1, codes=16))
    with pytest.raises(ConfigError, match=r"toy.tokens=2 \(is 3\)"):
        ToyTask(picture_config(tmp_path, 1, tokens=3))
    settings = picture_config(tmp_path, 1)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(ConfigError, match="is black"):
        ToyTask(settings)
    (tmp_path / "grey.png").write_text("no picture")
    with pytest.raises(ConfigError, match="no picture that can be read"):
        ToyTask(settings)
    with pytest.raises(ConfigError, match=r"too many plans; set e.g. toy.samples=4096"):
        ToyTask(dataclasses.replace(config(tmp_path), toy=ToyConfig(tokens=5, codes=6)))


@pytest.mark.parametrize(
    ("codec", "radices"),
    [
        (["digits=1"], (512,)),
        (["kind=mixed_radix", "radices=[32,16]"], (32, 16)),
        (["digits=3"], (8, 8, 8)),
        (["digits=9"], (2,) * 9),
    ],
)
def test_the_shipped_config_takes_its_digits_from_the_command_line(codec, radices):
    settings = load_config("configs/toy_picture.yaml", [f"model.codec.text.{each}" for each in codec])
    task = ToyTask(settings)
    assert task.canvas.span("text").codec.radices == radices
    assert task.entropy == pytest.approx(11.1495, abs=1e-4)  # as the header of the config says


def test_the_shipped_picture_is_its_formula():
    with Image.open("assets/toy/spiral.png") as picture:
        assert np.array_equal(np.array(picture), draw_toy.spiral())
