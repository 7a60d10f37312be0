"""The table of a toy run: states (K, L) of positive probability and their probabilities (K,), random or of a picture.

    random     p(x) = softmax(s · z)(x),  z ~ N(0, 1) for each of the C^L states
    picture    p(row, column) ∝ grey level of that pixel: two tokens of C codes for a picture of C x C pixels

The picture is the two-dimensional experiment of Chao et al., arXiv 2505.18495.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmprime.data.pictures import read_picture
from mmprime.generation.images import save_picture

from ..config import ConfigError, resolve
from ..rng import generator_for
from ..schema import ToyConfig

MOST_STATES = 1 << 24  # of a random table


def random_table(toy: ToyConfig, seed: int) -> tuple[Tensor, Tensor]:
    """(states, table) of a random joint distribution. Raises ConfigError on one too large to hold."""
    if toy.codes**toy.tokens > MOST_STATES:
        raise ConfigError(
            f"toy.tokens={toy.tokens}, toy.codes={toy.codes}: {toy.codes}^{toy.tokens} states are more than 2^24"
        )
    logits = torch.randn(toy.codes**toy.tokens, generator=generator_for("cpu", seed, "table"))
    states = torch.cartesian_prod(*[torch.arange(toy.codes)] * toy.tokens).reshape(-1, toy.tokens)
    return states, (toy.sharpness * logits.double()).softmax(0)


def picture_table(toy: ToyConfig) -> tuple[Tensor, Tensor]:
    """(states, table) of the pixels that are not black. Raises ConfigError on a picture that does not fit."""
    try:
        grey = torch.from_numpy(np.array(read_picture(resolve(toy.picture)).convert("L"))).double()
    except ValueError as error:
        raise ConfigError(f"toy.picture={toy.picture}: no picture that can be read ({error})") from error
    height, width = grey.shape
    if (height, width) != (toy.codes, toy.codes) or toy.tokens != 2:
        raise ConfigError(
            f"toy.picture={toy.picture} has {width} x {height} pixels: it needs toy.tokens=2 (is {toy.tokens}) and "
            f"a square of toy.codes (is {toy.codes}) pixels a side"
        )
    states = grey.nonzero()
    if not len(states):
        raise ConfigError(f"toy.picture={toy.picture} is black: grey level is density, so there is none")
    weight = grey[states[:, 0], states[:, 1]]
    return states, weight / weight.sum()


def write_points(path: Path, points: Tensor, side: int) -> None:
    """Samples (n, 2) as a picture: white where any fell."""
    hits = torch.zeros(side, side, dtype=torch.uint8)
    hits[points[:, 0], points[:, 1]] = 255
    save_picture(path, Image.fromarray(hits.numpy()))
