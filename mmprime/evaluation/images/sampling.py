"""Pictures sampled to be measured, with what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mmprime.engine import MASK_ID, mix
from mmprime.generation.sampling import SamplingConfig, sample_rows

from ..datasets import choose_rows, fitting
from ..sample_cost import idle_share, steps_unused
from .sets import PictureArray

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline

_AT_ONCE = 256


class SampledPictures(NamedTuple):
    """pictures; nfe: mean forward passes of one; idle_steps: see `idle_share`; seconds of sampling."""

    pictures: PictureArray
    nfe: float
    idle_steps: float | None
    seconds: float


def sample_pictures(
    pipe: Pipeline, prompts: Sequence[str] | None, num: int, config: SamplingConfig, seed: int
) -> SampledPictures:
    """`num` pictures, one for each prompt; picture i depends on seed and i only."""
    images, nfe, idle, seconds = [], [], [], 0.0
    for start in range(0, num, _AT_ONCE):
        stop = min(start + _AT_ONCE, num)
        seeded = replace(config, seed=[mix(seed, number) for number in range(start, stop)])
        asked = None if prompts is None else list(prompts[start:stop])
        result = pipe.generate(asked, 1 if asked else stop - start, seeded)
        images.append((result.images.cpu() * 255).round().byte())
        nfe.append(result.nfe.double().cpu())
        idle.append(steps_unused(config, result.rank))
        seconds += result.seconds
    mean = float(torch.cat(nfe).mean())
    return SampledPictures(PictureArray(torch.cat(images)), mean, idle_share(config, torch.cat(idle)), seconds)


def sample_classes(pipe: Pipeline, labels: Sequence[int], config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """A uint8 picture (3, H, W) for each label; (B, 2) its forward passes and idle steps. Spans of text stay masked.

    Raises ValueError when the model has no image tokenizer.
    """
    if pipe.image_tokenizer is None:
        raise ValueError("the model has no image tokenizer, so it draws no pictures")
    y = torch.full((len(labels), pipe.canvas.num_subtokens), MASK_ID, device=pipe.device)
    absent = pipe.canvas.mask("text") if pipe.canvas.has("text") else None
    cond = {"label": torch.tensor(labels, device=pipe.device)}
    result = sample_rows(pipe.model, pipe.canvas, y, config, absent, cond)
    tokens = pipe.canvas.unpack(result.y)["image"].unflatten(1, pipe.image_tokenizer.grid)
    images = (pipe.image_tokenizer.decode_tokens(tokens).cpu() * 255).round().byte()
    return images, torch.stack([result.nfe, steps_unused(config, result.rank).to(result.nfe)], -1)


def choose_prompts(pipe: Pipeline, captions: Sequence[str], num: int, seed: int) -> list[str] | None:
    """`num` captions drawn by seed (each at most once while they last), or None for a model without text.

    Raises ValueError for a model that draws for class labels.
    """
    if pipe.model.config.num_classes is not None and not pipe.canvas.has("text"):
        raise ValueError("this model draws for class labels, not captions: use the command imagenet")
    if not pipe.canvas.has("text"):
        return None
    captions = [captions[index] for index in fitting(pipe, captions)]
    whole, rest = divmod(num, len(captions))
    picks = [*range(len(captions))] * whole + choose_rows(len(captions), rest, seed)
    return [captions[index] for index in picks]
