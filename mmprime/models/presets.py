"""Sizes of the trunk, by name. Counts are of the blocks alone (SwiGLU, no conditioning); embeddings and heads
depend on the canvas."""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """Width D, number of blocks, attention heads, and the parameters of the blocks these make."""

    width: int
    depth: int
    heads: int
    trunk_parameters: int


PRESETS = {
    "nano": Preset(64, 3, 2, 159_744),  # tests and toys
    "tiny": Preset(256, 4, 4, 3_211_264),  # minutes to hours on a CPU
    "small": Preset(384, 12, 6, 21_233_664),
    "base": Preset(768, 12, 12, 84_934_656),
    "large": Preset(1024, 24, 16, 303_562_752),
    "XL": Preset(1152, 28, 16, 445_906_944),
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError listing the names there are."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
