"""Samples of a run as files: a sheet of sampled images with their captions, a text file of sampled texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmprime.engine import MASK_ID, Canvas, Guidance, Rows, mix, sampler_of
from mmprime.engine.samplers import sampler_from_words, with_steps
from mmprime.generation.defaults import default_sampling
from mmprime.generation.images import save_picture, sheet
from mmprime.generation.sampling import SamplingConfig, sample_rows
from mmprime.io import whole_file, write_text
from mmprime.models import Network
from mmprime.tokenizers import TextTokenizer, load_image_tokenizer

from .config import ConfigError
from .distributed import World
from .rng import derive_seed
from .schema import DiffusionConfig

SCALE = 2  # of a sheet's pictures
ALONE = World()


def sampling_configs(config: DiffusionConfig, canvas: Canvas) -> dict[str, SamplingConfig]:
    """How to sample each span, by the section ``samples``; guided where the condition was left out in training.

    Raises ConfigError on a sampler or an option that does not exist, and on a span that the model has not.
    """
    samples, goal, shares = config.samples, config.objective, config.conditions
    try:
        sampler = sampler_of(samples.sampler, samples.options, samples.steps) if samples.sampler else None
    except ValueError as error:
        raise ConfigError(f"samples.sampler={samples.sampler}: {error}") from error
    named = {}
    for name, words in samples.spans.items():
        try:
            named[canvas.span(name).name] = with_steps(sampler_from_words(words.split()), samples.steps)
        except ValueError as error:
            raise ConfigError(f"samples.spans.{name}={words}: {error}") from error
    try:
        guidance = Guidance(samples.guidance, samples.guidance_schedule)
    except ValueError as error:
        raise ConfigError(f"samples.guidance_schedule={samples.guidance_schedule}: {error}") from error
    by_class = config.data.labels and shares.label_dropout > 0
    left_out = {"image": by_class or shares.text_absent > 0, "text": shares.image_absent > 0}
    configs = {}
    for name, default in default_sampling(canvas, goal.masking, goal.level_powers).items():
        configs[name] = SamplingConfig(
            named.get(name) or sampler or default.sampler,
            samples.steps,
            guidance if guidance and left_out.get(name) else None,
            samples.temperature,
        )
    return configs


@dataclass(frozen=True)
class SampleWriter:
    """Writes samples of a model; tokenizers: None where a span's codes are written as they are."""

    canvas: Canvas
    configs: Mapping[str, SamplingConfig]
    text: TextTokenizer | None
    image: Path | None  # a tokenizer's folder

    def write(
        self, model: Network, rows: Rows, captions: list[str], stem: Path, seed: int, world: World = ALONE
    ) -> None:
        """``stem.png`` (or ``.safetensors``) and ``stem.txt``: each span sampled, given the others of `rows`. Processes
        share the rows; the first of them writes."""
        drawn = {
            name: self.sample(model, rows, name, seed, world)
            for name in ("image", "text")
            if self.canvas.has(name) and (name == "image" or self.text is not None)
        }
        if not world.is_main:
            return
        stem.parent.mkdir(parents=True, exist_ok=True)
        if "image" in drawn:
            self._write_images(drawn["image"], captions, stem)
        if "text" in drawn and self.text is not None:
            texts = [self.text.decode(row) for row in drawn["text"].tolist()]
            truth = captions or [""] * len(texts)
            lines = [text + (f"    (truth: {real})" if real else "") for text, real in zip(texts, truth)]
            write_text(stem.with_suffix(".txt"), "\n\n".join(lines) + "\n")

    def sample(self, model: Network, rows: Rows, name: str, seed: int, world: World = ALONE) -> Tensor:
        """Codes (n, L), or digits, of a span, with the other spans as they are in `rows`."""
        y = rows.y.masked_fill(self.canvas.mask(name).to(rows.y.device), MASK_ID)
        parts = torch.arange(len(y)).split(-(-len(y) // world.size))

        def sample_some(part: int) -> Tensor:
            some = parts[part]
            seeds = [mix(derive_seed(seed, "samples", name), number) for number in some.tolist()]
            cond = rows.cond and {key: value[some.to(value.device)] for key, value in rows.cond.items()}
            config = replace(self.configs[name], seed=seeds)
            sampled = sample_rows(model, self.canvas, y[some.to(y.device)], config, cond=cond)
            return self.canvas.unpack(sampled.y)[name].cpu()

        return torch.cat(world.share(sample_some, len(parts), "samples"))

    def _write_images(self, codes: Tensor, captions: list[str], stem: Path) -> None:
        grid = self.canvas.span("image").grid
        assert grid is not None
        codes = codes.unflatten(1, grid)
        if self.image is None:
            with whole_file(stem.with_suffix(".safetensors")) as temporary:
                save_file({"codes": codes.contiguous()}, temporary)
            return
        images = load_image_tokenizer(self.image).decode_tokens(codes)
        save_picture(stem.with_suffix(".png"), sheet(images, captions or None, scale=SCALE))
