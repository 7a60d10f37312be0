"""A small diffusion task: a picture that its caption decides."""

import torch

from mmprime.training.corpus import Corpus
from mmprime.training.examples import Examples
from mmprime.training.model import build_canvas, build_model
from mmprime.training.schema import (
    CodecConfig,
    ConditionsConfig,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    SamplesConfig,
    TrainConfig,
)
from mmprime.training.tasks.diffusion import DiffusionTask

TEXT, IMAGE = 18, 32


def corpus(num_classes=None, tokens=None) -> Corpus:
    """The image is decided by the first word, so that captions help. tokens: of each text, padding left out."""

    def part(count: int, seed: int) -> Examples:
        generator = torch.Generator().manual_seed(seed)
        text = torch.randint(0, TEXT, (count, 4), generator=generator)
        image = (text[:, :1] + torch.arange(9)) % IMAGE
        labels = None if num_classes is None else text[:, 0] % num_classes
        return Examples({"text": text.int(), "image": image.int()}, labels, [f"word {i}" for i in range(count)],
                        None if tokens is None else torch.full((count,), tokens))  # fmt: skip

    return Corpus(
        train=part(200, 0),
        validation={"val": part(40, 1)},
        num_codes={"text": TEXT, "image": IMAGE},
        lengths={"text": 4, "image": (3, 3)},
        num_classes=num_classes,
        text_tokenizer=None,
        fingerprint="made up",
    )


def task(directory, num_classes=None, conditions=None, objective=None, tokens=None, samples=None) -> DiffusionTask:
    config = DiffusionConfig(
        task="diffusion",
        run=RunConfig(dir=str(directory)),
        train=TrainConfig(
            steps=40, batch=32, lr=5e-3, warmup=5, ema=0.9, validate_every=40, samples_every=40, save_every=20
        ),
        data=DataConfig(path=str(directory), image_tokenizer="", text_tokenizer=""),
        model=ModelConfig(preset="nano", width=32, depth=2, heads=2),
        objective=objective or ObjectiveConfig(),
        conditions=conditions or ConditionsConfig(text_given=0.5, text_absent=0.1, image_given=0.2),
        samples=samples or SamplesConfig(count=3, steps=4),
    )
    data = corpus(num_classes, tokens)
    torch.manual_seed(0)
    canvas = build_canvas(data, {"image": CodecConfig(), "text": CodecConfig(kind="shuffled", digits=2)})
    return DiffusionTask(config, data, canvas, build_model(canvas, config.model, num_classes))


def sampled(built):
    return built.samples.sample(built.modules, built._rows(built.validation["val"]), "image", 0)
