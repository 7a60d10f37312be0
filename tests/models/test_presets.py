"""The table of sizes tells the truth."""

import pytest
import torch

from mmprime.models import PRESETS, DiTConfig
from mmprime.models.layers import Block


@pytest.mark.parametrize("name", PRESETS)
def test_trunk_parameters_are_as_the_table_says(name: str) -> None:
    config = DiTConfig(preset=name).resolve()
    with torch.device("meta"):
        block = Block(config)
    assert config.depth * sum(p.numel() for p in block.parameters()) == PRESETS[name].trunk_parameters


def test_sizes_of_the_config_win_over_the_preset() -> None:
    config = DiTConfig(preset="tiny", depth=6).resolve()
    assert (config.width, config.depth, config.heads) == (256, 6, 4)


def test_gelu_has_about_as_many_parameters_as_swiglu() -> None:
    counts = []
    for mlp in ("swiglu", "gelu"):
        with torch.device("meta"):
            block = Block(DiTConfig(preset="base", mlp=mlp).resolve())
        counts.append(sum(p.numel() for p in block.parameters()))
    assert counts[0] == counts[1]
