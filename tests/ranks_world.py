"""Small runs of every task, trained by one process or by several that share each step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from training_world import LineTask

from mmprime.data import prepare_folder
from mmprime.engine import NonFiniteLogits
from mmprime.tokenizers import ImageTokenizerConfig
from mmprime.training import distributed
from mmprime.training.corpus import Corpus
from mmprime.training.distributed import World
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
    TokenizerLossConfig,
    TokenizerRunConfig,
    ToyConfig,
    ToyRunConfig,
    TrainConfig,
)
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.tasks.tokenizer import TokenizerTask
from mmprime.training.tasks.toy import ToyTask
from mmprime.training.trainer import NonFiniteLoss, Trainer

TEXT, IMAGE = 18, 32
VALIDATION: list[str] | None = None
OBJECTIVE = ObjectiveConfig(mixture={"nested": 0.5, "token_synchronous": 0.5}, blend={"joint": 0.5, "marginal": 0.5})


class PartsTask(LineTask):
    """Beside the line: a matrix no loss reaches, and one that only odd micro-batches reach."""

    def __init__(self) -> None:
        super().__init__()
        self.modules["unused"], self.modules["odd"] = nn.Linear(3, 3), nn.Linear(3, 3)
        self.calls = 0

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"head": list(self.modules.parameters())}

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Any:
        noise = torch.randn(len(indices), 6, generator=generator)
        out = self.modules["head"](self.x[indices] + 0.1 * noise)
        if noise[0, 0] > 0:  # a function of (seed, step, micro-batch)
            out = self.modules["odd"](out)
        yield "head", ((out - self.y[indices]) ** 2).mean(), {}


class PoisonedTask(LineTask):
    """One group, whose loss the second process cannot compute at step 2."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"head": list(self.modules.parameters())}

    def __init__(self, logits: bool) -> None:
        super().__init__()
        self.logits = logits

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Any:
        out = self.modules["tail"](self.modules["head"](self.x[indices]))
        if step == 2 and self.world.rank == 1:
            if self.logits:
                raise NonFiniteLogits("all logits are -inf")
            out = out * float("nan")
        yield "head", ((out - self.y[indices]) ** 2).mean(), {}


def train_config(**changes: Any) -> TrainConfig:
    """Six steps of two micro-batches of eight."""
    settings: dict[str, Any] = {
        "steps": 6, "batch": 8, "accumulate": 2, "lr": 2e-3, "warmup": 2, "ema": 0.9, "weight_decay": 0.5,
        "log_every": 3, "validate_every": 0, "samples_every": 0, "save_every": 0,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def _corpus(spans: tuple[str, ...], num_classes: int | None, held_out: int) -> Corpus:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, TEXT, (100, 4), generator=generator)
    codes = {"text": text.int(), "image": ((text[:, :1] + torch.arange(9)) % IMAGE).int()}
    labels = None if num_classes is None else text[:, 0] % num_classes
    sizes: dict[str, int] = {"text": TEXT, "image": IMAGE}
    lengths: dict[str, Any] = {"text": 4, "image": (3, 3)}
    return Corpus(
        train=Examples({name: codes[name] for name in spans}, labels),
        validation={"val": Examples({name: codes[name][-held_out:] for name in spans})} if held_out else {},
        num_codes={name: sizes[name] for name in spans},
        lengths={name: lengths[name] for name in spans},
        num_classes=num_classes,
        text_tokenizer=None,
        fingerprint="made up",
    )


def _diffusion(
    run: RunConfig, spans: tuple[str, ...], classes: int | None, held_out: int = 0, **sections: Any
) -> tuple[Any, Any]:
    config = DiffusionConfig(
        task="diffusion",
        run=run,
        train=sections.pop("train", train_config()),
        model=ModelConfig(preset="nano", dropout=0.1, codec={name: CodecConfig(kind="base") for name in spans}),
        objective=sections.pop("objective", OBJECTIVE),
        conditions=ConditionsConfig(**sections),
    )
    corpus = _corpus(spans, classes, held_out)
    canvas = build_canvas(corpus, config.model.codec)
    return DiffusionTask(config, corpus, canvas, build_model(canvas, config.model, classes)), config


def _tokenizer(run: RunConfig, shards: Path, **options: Any) -> tuple[Any, Any]:
    config = TokenizerRunConfig(
        task="tokenizer",
        run=run,
        train=train_config(),
        data=DataConfig(path=str(shards), validation=VALIDATION),
        loss=TokenizerLossConfig(l2=1.0, adversarial=0.1, adversarial_start=2),
    )
    small: dict[str, Any] = {"image_size": 16, "downsample": 4, "patch": 2, "widths": [8, 16], "num_codes": 32}
    blocks: dict[str, Any] = {"encoder_blocks": [1, 1], "decoder_blocks": [1, 1], "code_dim": 4, "revive_below": 3.0}
    config.tokenizer = ImageTokenizerConfig(**{**small, **blocks, **options})
    return TokenizerTask(config), config


def write_shards(root: Path) -> Path:
    """40 pictures of 16 px in four flat squares each, a fifth of them held out, as a dataset folder in ``root``."""
    dice = np.random.default_rng(0)
    (root / "pictures").mkdir()
    for index in range(40):
        colours = dice.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colours.repeat(8, 0).repeat(8, 1)).save(root / f"pictures/{index}.png")
        (root / f"pictures/{index}.txt").write_text("a picture")
    prepare_folder(root / "pictures", root / "shards", size=16, split_fraction=0.2)
    return root / "shards"


QUICK = ("parts", "parts_of_six", "text_image", "validated", "vq", "text_image:fsdp", "validated:fsdp")
BOOKS = ("rvq", "gvq")
OTHERS = (
    "toy",
    "text",
    "image_by_class",
    "cosine",
    "lfq",
    "fsq",
    "text:fsdp",
    "text:hsdp",
    "image_by_class:fsdp",
    "toy:fsdp",
)


def trainer(name: str, directory: Path, shards: Path, world: World) -> Trainer:
    """The Trainer of a run named above; all processes but the first begin with other weights.

    NAME:fsdp and NAME:hsdp share the weights out.
    """
    name, _, kind = name.partition(":")
    sharded = {"fsdp": {"parallel": "fsdp"}, "hsdp": {"parallel": "fsdp", "replicas": 2}}.get(kind, {})
    run = RunConfig(dir=str(directory / f"{name}{kind}"), **sharded)
    torch.manual_seed(world.rank)
    if name == "parts":
        task, config = PartsTask(), ToyRunConfig(task="line", run=run, train=train_config(lr=0.05))
    elif name == "parts_of_six":
        task, config = PartsTask(), ToyRunConfig(task="line", run=run, train=train_config(lr=0.05, accumulate=6))
    elif name in ("nan", "no_logits"):
        task = PoisonedTask(name == "no_logits")
        config = ToyRunConfig(task="line", run=run, train=train_config(save_every=1))
    elif name == "validated":
        often = train_config(validate_every=3, samples_every=3, save_every=3)
        joint = ObjectiveConfig(mixture=OBJECTIVE.mixture)
        sections: dict[str, Any] = {"train": often, "objective": joint, "text_given": 0.5}
        task, config = _diffusion(run, ("text", "image"), None, held_out=90, **sections)
    elif name == "toy":
        config = ToyRunConfig(
            task="toy", run=run, train=train_config(), toy=ToyConfig(tokens=3, codes=6), objective=OBJECTIVE,
            model=ModelConfig(preset="nano", codec={"text": CodecConfig(kind="base")}),
        )  # fmt: skip
        task = ToyTask(config)
    elif name == "text":
        task, config = _diffusion(run, ("text",), None, train=train_config(optimizer="muon"))
    elif name == "text_image":
        joint = ObjectiveConfig(mixture=OBJECTIVE.mixture, start_masking="token_synchronous", start_share=0.5)
        task, config = _diffusion(run, ("text", "image"), None, objective=joint, text_given=0.5, image_given=0.2)
    elif name == "image_by_class":
        task, config = _diffusion(run, ("image",), 5, label_dropout=0.3)
    else:
        kinds: dict[str, dict[str, Any]] = {
            "vq": {}, "cosine": {"cosine": True}, "lfq": {"quantizer": "lfq"},
            "fsq": {"quantizer": "fsq", "levels": [8, 4]},
            "rvq": {"quantizer": "rvq", "levels": [8, 4, 8], "num_codes": 256},
            "gvq": {"quantizer": "gvq", "levels": [8, 16], "num_codes": 128},
        }  # fmt: skip
        task, config = _tokenizer(run, shards, **kinds[name])
    return Trainer(task, config, world)


def main(directory: str, shards: str, *names: str) -> int:
    """The runs NAME or FOLDER/NAME, one after another, in this process's group; 1 if a loss was not finite.

    A line on stderr begins each.
    """
    torch.set_num_threads(1)
    world, code = distributed.start(torch.device("cpu")), 0
    for each in names:
        print(f"run {each}", file=sys.stderr)
        folder, _, name = each.rpartition("/")
        try:
            trainer(name, Path(directory, folder), Path(shards), world).run()
        except NonFiniteLoss as error:
            print(f"NonFiniteLoss: {error}", file=sys.stderr)
            code = 1
    if code == 0:  # as the commands do, which leave an ended run's group as it is
        distributed.stop(world)
    return code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
