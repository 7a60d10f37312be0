"""Files of published tokenizer layouts with drawn weights: two levels of 32 and 64 channels, 24 codes or few bits."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmprime.tokenizers.layout_names import foreign_name
from mmprime.tokenizers.vq_autoencoder import VQAutoencoderConfig, empty

SIDE = 16
_BITS = {"num_codes": 64, "code_dim": 6, "latent": 6, "quantizer": "lfq", "levels": (2,) * 6}
_LEVELS = (8, 8, 8, 5, 5, 5)
TINY: dict[str, VQAutoencoderConfig] = {
    "taming": VQAutoencoderConfig(SIDE, (32, 64), 2, 8, 24, 4, (True, True), input_range=(-1, 1)),
    "maskgit": VQAutoencoderConfig(SIDE, (32, 64), 2, 8, 24, 8, family="maskgit"),
    "magvit2": VQAutoencoderConfig(SIDE, (32, 64), 4, input_range=(-1, 1), family="magvit2", **_BITS),
    "ibq": VQAutoencoderConfig(SIDE, (32, 64), 4, 8, 24, 4, (True, True), input_range=(-1, 1), quantizer="dot"),
    "maskbit": VQAutoencoderConfig(SIDE, (32, 64), 2, family="maskbit", **_BITS),
    "cosmos": VQAutoencoderConfig(
        SIDE, (64, 96, 96), 2, 8, 64000, 6, (True, False), False, (-1, 1), "cosmos", "fsq", _LEVELS, 32, 1
    ),
}


def drawn(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights of unit gain by name: each from a generator of its own, seeded by the name."""
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if len(shape) > 1 and "embedding" not in name:
            values /= math.sqrt(math.prod(shape[1:]))
        elif len(shape) == 1:
            values = 0.1 * values + ("norm" in name and name.endswith("weight"))
        weights[name] = values
    return weights


def shapes(layout: str, config: VQAutoencoderConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layout; matrices of attention are 1×1 convolutions."""
    named = {}
    for name, value in empty(config).state_dict().items():
        matrix = value.ndim == 2 and "attention" in name
        named[foreign_name(layout, name, len(config.widths))] = (*value.shape, *(1, 1) * matrix)
    return named


def pictures() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def write(layout: str, file: Path, **more: Tensor) -> Path:
    save_file({**drawn(shapes(layout, TINY[layout])), **more}, file)
    return file
