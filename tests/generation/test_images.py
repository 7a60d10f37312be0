"""Pictures as files: one plain picture, sheets, and pictures that can hardly be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pipeline_world import write_picture

from mmprime.generation import images

PICTURES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_one_picture_is_no_sheet() -> None:
    assert images.sheet(PICTURES[:1], scale=2).size == (32, 32)
    assert images.sheet(PICTURES[:1], labels=["a"], scale=2).size[0] > 32


@pytest.mark.parametrize(
    ("count", "columns", "scale", "shape"), [(4, 0, 1, "2 x 2"), (6, 3, 4, "3 x 2"), (2, 0, 3, "2 x 1")]
)
def test_a_sheet_that_comes_back_in_is_told(tmp_path: Path, count: int, columns: int, scale: int, shape: str) -> None:
    file = tmp_path / "sheet.png"
    images.save_picture(file, images.sheet(PICTURES[:count], columns=columns, scale=scale))
    said = images.shape_warning(file, 16)
    assert said is not None
    assert f"is a sheet of {shape} pictures" in said


@pytest.mark.parametrize(
    ("width", "height", "odd"), [(64, 64, False), (60, 41, False), (80, 40, True), (20, 300, True)]
)
def test_a_picture_far_from_square_is_told(tmp_path: Path, width: int, height: int, odd: bool) -> None:
    said = images.shape_warning(write_picture(tmp_path / "x.png", width, height), 16)
    assert (said is not None) == odd
    assert not odd or f"{width} x {height} pixels, far from square" in str(said)
