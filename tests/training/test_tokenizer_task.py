"""Training an image tokenizer from a dataset folder, through the Trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmprime.data import prepare_folder
from mmprime.tokenizers import ImageTokenizer, ImageTokenizerConfig
from mmprime.training.schema import DataConfig, RunConfig, TokenizerLossConfig, TokenizerRunConfig, TrainConfig
from mmprime.training.tasks.tokenizer import TokenizerTask, write_pairs
from mmprime.training.trainer import Trainer


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 flat pictures of 16 px, a fifth of them held out."""
    root = tmp_path_factory.mktemp("pictures")
    dice = np.random.default_rng(0)
    for index in range(40):
        colour = dice.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colour.repeat(8, 0).repeat(8, 1)).save(root / f"{index}.png")
        (root / f"{index}.txt").write_text("a picture")
    prepare_folder(root, root / "shards", size=16, split_fraction=0.2)
    return root / "shards"


def config(shards: Path, run: Path, steps: int = 6, **loss: float) -> TokenizerRunConfig:
    made = TokenizerRunConfig(
        task="tokenizer",
        run=RunConfig(dir=str(run)),
        train=TrainConfig(steps=steps, batch=8, warmup=2, validate_every=3, samples_every=6, save_every=3),
        data=DataConfig(path=str(shards), validation=["val"]),
        loss=TokenizerLossConfig(l2=1.0, **loss),  # type: ignore[arg-type]
    )
    made.tokenizer = ImageTokenizerConfig(
        image_size=16,
        downsample=4,
        patch=2,
        widths=[8, 16],
        encoder_blocks=[1, 1],
        decoder_blocks=[1, 1],
        num_codes=32,
        code_dim=4,
    )
    return made


def trainer(settings: TokenizerRunConfig) -> Trainer:
    torch.manual_seed(0)
    return Trainer(TokenizerTask(settings), settings)


def test_a_run_writes_numbers_pictures_and_a_tokenizer(shards: Path, tmp_path: Path) -> None:
    run = trainer(config(shards, tmp_path, steps=40))
    task = run.task
    assert isinstance(task, TokenizerTask)
    assert task.num_examples + len(task.validation["val"]) == 40
    metrics = run.run().metrics
    images = task.validation["val"]
    with run._averaged():
        restored = task.tokenizer.decode(task.tokenizer.encode(images / 255))
    errors = (restored - images / 255).square().mean((1, 2, 3))
    assert metrics["val/mse"] == metrics["mse"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert metrics["val/psnr"] == pytest.approx(float((-10 * errors.log10()).mean()), rel=1e-4)
    assert 1 / 32 <= metrics["val/codes_used"] <= 1
    assert 1 <= metrics["val/code_perplexity"] <= 32 * metrics["val/codes_used"] + 1e-6
    grid = Image.open(tmp_path / "samples" / "reconstructions_000040.png")
    columns, rows = 16, 2 * math.ceil(len(images) / 16)
    assert grid.size == (columns * 17 + 1, rows * 17 + 1)

    run.export(tmp_path / "model")
    saved = ImageTokenizer.load(tmp_path / "model")
    torch.testing.assert_close(saved.codebook_vectors(), task.tokenizer.codebook_vectors(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_stopped_and_resumed_is_bitwise_the_same(shards: Path, tmp_path: Path, adversarial: float) -> None:
    whole = config(shards, tmp_path / "whole", adversarial=adversarial, adversarial_start=2)
    through = trainer(whole)
    through.run()
    half = replace(whole, run=RunConfig(dir=str(tmp_path / "parts")))
    first = trainer(half)
    for _ in range(3):  # without the validation the whole run begins with, which must change nothing
        first._step()
    first.save()
    first.saver.wait()
    second = trainer(half)
    assert second.at.step == 3
    second.run()
    wanted, got = through.task.modules.state_dict(), second.task.modules.state_dict()
    assert wanted.keys() == got.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], got[name])] == []


def test_the_adversary_starts_when_told(shards: Path, tmp_path: Path) -> None:
    task = TokenizerTask(config(shards, tmp_path, adversarial=0.5, adversarial_start=4))
    assert list(task.parameter_groups()) == ["tokenizer", "discriminator"]
    before = {name: metrics for name, _, metrics in task.losses(torch.arange(8), torch.Generator(), 3)}
    after = {name: (loss, metrics) for name, loss, metrics in task.losses(torch.arange(8), torch.Generator(), 4)}
    assert list(before) == ["tokenizer"]
    assert list(after) == ["tokenizer", "discriminator"]
    assert "adversarial" not in before["tokenizer"]
    loss, terms = after["tokenizer"]
    expected = terms["l1"] + terms["l2"] + terms["quantizer"] + 0.5 * terms["adversarial"]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_what_does_not_fit_is_refused(shards: Path, tmp_path: Path) -> None:
    settings = config(shards, tmp_path)
    settings.tokenizer.image_size = 32
    with pytest.raises(ValueError, match=r"\(3, 16, 16\).*image_size=32"):
        TokenizerTask(settings)
    settings = config(shards, tmp_path, perceptual=0.1)
    with pytest.raises(ValueError, match=r"loss\.perceptual=0\.1 needs loss\.perceptual_weights"):
        TokenizerTask(settings)
    settings = config(shards, tmp_path)
    settings.data.train_split = "trian"
    with pytest.raises(ValueError, match="trian"):
        TokenizerTask(settings)


def test_pairs_lie_above_each_other(tmp_path: Path) -> None:
    above, below = torch.zeros(3, 3, 4, 4), torch.full((3, 3, 4, 4), 0.5)
    write_pairs(tmp_path / "grid.png", above, below, columns=2)
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (21, 11, 3)  # a pixel of white between and around
    assert [int(pixels[row, 1, 0]) for row in (1, 6, 11, 16)] == [0, 128, 0, 128]
    assert pixels[11, 6, 0] == 255  # no fourth image: blank


def test_a_tokenizer_of_more_codes_than_integers_is_trained(shards: Path, tmp_path: Path) -> None:
    """2^80 codes of 80 bits: use and perplexity are those of a bit in the mean."""
    settings = config(shards, tmp_path / "run", steps=2)
    settings.tokenizer = replace(settings.tokenizer, quantizer="bsq", num_codes=2**80)
    run = trainer(settings)
    run.run()
    scores = run.task.scores(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8))  # type: ignore[attr-defined]
    assert 0.5 <= scores["codes_used"] <= 1
    assert 1 <= scores["code_perplexity"] <= 2
    assert "digit values used" in run.task.report({f"val/{name}": value for name, value in scores.items()}, 1)
    run.task.export(tmp_path / "tokenizer")
    assert ImageTokenizer.load(tmp_path / "tokenizer").radices == (2,) * 80
