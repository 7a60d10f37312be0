"""A model of 8^22 = 2^66 codes a token, more than integers: pictures to digits, trained, loaded, drawn, scored."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmprime import SamplingConfig, from_pretrained
from mmprime.data import ImageDataset, encode_dataset, prepare_folder
from mmprime.engine import sampler_of
from mmprime.evaluation.datasets import load_scored
from mmprime.evaluation.likelihood import Effort, measures
from mmprime.evaluation.quantities import Bounds
from mmprime.tokenizers import PCATokenizer
from mmprime.training.distributed import World
from mmprime.training.schema import (
    CodecConfig,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    TrainConfig,
)
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

LEVELS = [8] * 22


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 16 px, their tokenizer of 4 x 4 patches, their digits, and a model of twelve steps."""
    from PIL import Image

    root, generator = tmp_path_factory.mktemp("beyond"), np.random.default_rng(0)
    (root / "raw").mkdir()
    for number in range(40):
        ramp = np.linspace(generator.random(3), generator.random(3), 16)[:, None] + 0.2 * generator.random((16, 16, 3))
        Image.fromarray((255 * ramp / ramp.max()).astype(np.uint8)).save(root / f"raw/{number}.png")
    prepare_folder(root / "raw", root / "images", 16, 0.2)
    pictures = torch.as_tensor(ImageDataset.load(root / "images", "train").images)
    tokenizer = PCATokenizer.fit(pictures, 4, LEVELS)
    tokenizer.save(root / "tokenizer")
    encode_dataset(root / "images", tokenizer, root / "codes")
    config = DiffusionConfig(
        task="diffusion",
        run=RunConfig(dir=str(root / "run")),
        train=TrainConfig(steps=12, batch=16, warmup=2, lr=3e-3, ema=0.0, validate_every=0, samples_every=12),
        data=DataConfig(path=str(root / "codes"), image_tokenizer=str(root / "tokenizer")),
        model=ModelConfig(preset="nano", digit_embedding="linear", codec={"image": CodecConfig(kind="product")}),
        objective=ObjectiveConfig(masking="independent", noise=0.2, noise_levels=[0, 21]),
    )
    config.conditions.label_dropout = 0.0
    config.samples.count, config.samples.steps = 4, 4
    trainer = Trainer(DiffusionTask.from_config(config), config, World())
    trainer.run()
    trainer.export(root / "run/model")
    return root


def test_pictures_are_drawn_and_scored(folder: Path) -> None:
    pipe = from_pretrained(folder / "run/model")
    codec = pipe.canvas.span("image").codec
    assert codec.num_codes == 2**66
    assert not codec.has_integers
    assert list((folder / "run/samples").glob("step_*.png"))
    for name, options in (("p2", {"unit": "digit"}), ("coarse_first", {"budget": "7,1"}), ("corrector", {})):
        drawn = pipe.generate(num=3, config=SamplingConfig(sampler_of(name, options), 8, seed=1))
        assert drawn.codes.shape == (3, 4, 4, 22)
        assert int(drawn.codes.min()) >= 0
        assert int(drawn.codes.max()) < 8
        assert drawn.images.shape == (3, 3, 16, 16)
        assert torch.equal(drawn.images, pipe.image_tokenizer.decode_digits(drawn.codes))
    originals = torch.as_tensor(ImageDataset.load(folder / "images", "val").images).float() / 255
    given = pipe.encode_images(originals)
    assert given.shape[1:] == (4, 4, 22)
    kept = pipe.inpaint(originals[0], (0, 0, 2, 2), num=2, config=SamplingConfig(steps=4))
    assert torch.equal(kept.codes[:, 2:], given[:1, 2:].expand(2, -1, -1, -1))
    nats = pipe.likelihood(image=originals, masking="independent", samples=4)
    uniform = 16 * 66 * math.log(2)
    assert bool((nats > 0).all())
    assert float(nats.mean()) < uniform  # twelve steps are better than none


def test_the_evaluation_reads_digits(folder: Path) -> None:
    pipe = from_pretrained(folder / "run/model")
    scored = load_scored(pipe, str(folder / "codes"), "val", 8, 0)
    bounds = Bounds("independent", (), (8,), sampler=sampler_of("coarse_first", {"budget": "7,1"}))
    rows = list(measures(pipe.model, pipe.canvas, scored, bounds, Effort(samples=4)))
    tokens = {row.metric: row.value for row in rows if row.unit == "nats/token"}
    assert set(tokens) == {
        "nelbo image continuous independent",
        "nelbo image T=8 independent",
        "nelbo image T=8 sampler coarse_first budget=7,1",
    }
    assert all(0 < value < 66 * math.log(2) for value in tokens.values())
