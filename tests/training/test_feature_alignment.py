"""Alignment of the trunk's middle to a frozen network: the term by hand, when it ends, what is exported, its file."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from datafixtures import write_pictures
from diffusion_world import corpus, task
from safetensors.torch import load_file, save_file
from torch import nn

from mmprime.cli import prepare
from mmprime.data import CodeDataset, ImageDataset, prepare_folder
from mmprime.training.alignment import FeatureAlignment, picture_features, read_features, save_features
from mmprime.training.code_examples import code_examples
from mmprime.training.config import ConfigError
from mmprime.training.schema import ConditionsConfig, DataConfig, ObjectiveConfig
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

WIDTH = 6


def aligned(directory, **options) -> DiffusionTask:
    """The task of `diffusion_world`, whose pictures have features that their first code decides."""
    plain = task(directory, conditions=ConditionsConfig(text_given=0.3, image_absent=0.3, image_given=0.2))
    table = torch.randn(64, 9, WIDTH, generator=torch.Generator().manual_seed(5))
    data = corpus()
    examples = replace(data.train, features=table[data.train.codes["image"][:, 0].long()].half())
    config = replace(plain.config, objective=ObjectiveConfig(**({"align": 2.0, "align_share": 0.5} | options)))
    torch.manual_seed(1)
    return DiffusionTask(config, replace(data, train=examples), plain.canvas, plain.model)


def loss_of(built: DiffusionTask, step: int) -> tuple[torch.Tensor, dict[str, float]]:
    ((_, loss, numbers),) = built.losses(torch.arange(24), torch.Generator().manual_seed(3), step)
    return loss, numbers


def test_the_term_is_one_minus_the_cosine_of_the_states_after_the_middle_block(tmp_path) -> None:
    built = aligned(tmp_path)
    for parameter in built.model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    embed, block, objective, states, parts = built.model._embed, built.model.blocks[0], built.objective, [], []
    built.model._embed = lambda y, canvas: (states.append(y), embed(y, canvas))[1]
    built.start = lambda model, rows, generator: (parts.append(rows), objective(model, rows, generator))[1]
    built.start_steps = 40
    with_term, numbers = loss_of(built, 19)
    without, fewer = loss_of(built, 20)
    h = block(embed(states[0], built.canvas), built.model.rotary(built.canvas, "cpu"), None, "auto")
    apart = []
    for row in range(24):
        p, f = built.alignment.project(h[row, 4:]).detach().double(), built.train.features[row].double()
        if not parts[0].absent[row, built.canvas.mask("image")].any():
            apart.append(1 - sum(float(a @ b / a.norm() / b.norm()) for a, b in zip(p, f)) / 9)
    assert 12 < len(apart) < 22
    assert "align" not in fewer
    assert math.isclose(float((with_term - without).detach()), 2 * numbers["align"], abs_tol=1e-4)
    assert math.isclose(numbers["align"], sum(apart) / len(apart), abs_tol=1e-4)


def test_examples_without_an_image_do_not_count(tmp_path) -> None:
    term = aligned(tmp_path).alignment
    states, features = torch.randn(2, 13, 32), torch.randn(2, 9, WIDTH)
    absent = term.image.expand(2, -1) & torch.tensor([[True], [False]])
    first, both = term([states], features, absent), term([states], features, absent & False)
    alone = term([states[1:]], features[1:], absent[1:])
    assert torch.allclose(first, alone)
    assert not torch.allclose(first, both)
    assert float(term([states[:1]], features[:1], absent[:1]).detach()) == 0
    assert float(term([states[:1]], features[:1], absent[:1] & False).detach()) > 0


def test_a_training_learns_the_term_leaves_it_and_does_not_export_it(tmp_path) -> None:
    built = aligned(tmp_path)
    built.config.train = replace(built.config.train, steps=20, validate_every=0, samples_every=0, save_every=0)
    built.alignment.steps = 10
    before = loss_of(built, 0)[1]["align"]
    trainer = Trainer(built, built.config)
    stepper, kept = trainer.stepper, []

    def step(stop):
        done = stepper(stop)
        kept.append(built.alignment.project[0].weight.grad is None)
        return done

    trainer.stepper = step
    trainer.run()
    assert kept == [False] * 10 + [True] * 10
    assert loss_of(built, 0)[1]["align"] < before - 0.08
    trainer.export(tmp_path / "model")
    names = load_file(tmp_path / "model/model.safetensors")
    assert names
    assert not [name for name in names if "align" in name or "project" in name]


def test_what_alignment_cannot_do_is_said_before_training(tmp_path) -> None:
    built = aligned(tmp_path)
    assert built.unequal_passes() == "objective.align=2 needs run.parallel=ddp"
    features = built.train.features
    for found, options, said in (
        (None, {}, r"objective.align=2 needs data.features, a file of mmprime prepare features"),
        (features[:, :4], {}, "data.features has 4 vectors a picture, the image span 9 tokens"),
        (features, {"mixture": {"nested": 0.5, "independent": 0.5}}, "is for one objective and one masking"),
    ):
        config = replace(built.config, objective=ObjectiveConfig(align=2.0, **options))
        with pytest.raises(ConfigError, match=said):
            FeatureAlignment(config, built.canvas, built.model, found)


def test_the_features_of_a_picture_are_found_by_its_key(tmp_path) -> None:
    file, made = tmp_path / "f.safetensors", torch.randn(3, 4, 5).half()
    save_features(file, made, ["b", "a", "c"])
    assert torch.equal(read_features(str(file), ["a", "b", "a"]), made[[1, 0, 1]])
    with pytest.raises(ConfigError, match=r"lacks 2 of 3 pictures, the first 'd'; mmprime prepare features"):
        read_features(str(file), ["a", "d", "e"])
    save_file({"features": made}, file)
    with pytest.raises(ConfigError, match=r"is no file of mmprime prepare features: 'keys'"):
        read_features(str(file), ["a"])
    save_features(file, made, ["b", "a", "c"])
    about = {"captions": ["", "x"], "tags": [[], []], "vendors": ["", ""], "keys": ["c", "a"], "classes": []}
    data = CodeDataset(tokens=torch.zeros(2, 4).int(), grid=(2, 2), num_codes=8, tokenizer_fingerprint="", labels=None,
                       splits=["train"] * 2, **about)  # fmt: skip
    config = DataConfig(features=str(file))
    assert torch.equal(code_examples(data, config, None, None).at(torch.tensor([1])).features, made[1:2])
    assert code_examples(replace(data, splits=["val"] * 2), config, None, None).features is None


def test_the_command_averages_the_deepest_map_that_is_as_fine_as_the_grid(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    prepare_folder(write_pictures(tmp_path / "raw"), tmp_path / "images", 64)
    network = timm.create_model("test_efficientnet", features_only=True).eval()
    weights, out = tmp_path / "w.safetensors", tmp_path / "f.safetensors"
    save_file(network.state_dict(), weights)
    words = "--images", tmp_path / "images", "--model", "test_efficientnet", "--weights", weights, "--out", out
    prepare.main(["features", *map(str, words)])
    data = ImageDataset.load(tmp_path / "images", "train")
    level = network.feature_info.reduction().index(8)
    with torch.no_grad():
        maps = network(data.images / 127.5 - 1)[level]
    found = read_features(str(out), data.keys)
    assert torch.allclose(found.float(), maps.flatten(2).transpose(1, 2), atol=0.02)
    assert f"{len(data):,} pictures, 64 vectors of {maps.shape[1]} numbers each" in capsys.readouterr().out
    coarse = picture_features(data.images[:2], weights, "test_efficientnet", (4, 4), 32)
    assert coarse.shape == (2, 16, network.feature_info.channels()[level])
    with pytest.raises(ValueError, match="timm has no model 'resnet0'"):
        picture_features(data.images[:2], weights, "resnet0", (4, 4))
    with pytest.raises(ValueError, match=r"sees 64 pixels as maps of at most 32, the grid is \(64, 64\)"):
        picture_features(data.images[:2], weights, "test_efficientnet", (64, 64))
