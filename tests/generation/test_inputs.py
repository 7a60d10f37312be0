"""One preprocessing: any kind of picture of any size becomes the same numbers, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmprime.generation.images import to_tensor
from mmprime.generation.inputs import image_batch, mask_codes

SIDE = 32


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_every_kind_of_one_picture_is_the_same(picture: Image.Image, tmp_path: Path, capsys) -> None:
    picture.save(tmp_path / "it.png")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    wide = (array.astype(np.uint16) * 257, array.astype(np.float32) / 255)
    kinds = [tmp_path / "it.png", str(tmp_path / "it.png"), (tmp_path / "it.png").read_bytes(), picture, array, *wide]
    kinds += [tensor, tensor / 255, tensor[None], [picture]]
    first = image_batch(kinds[0], SIDE)
    assert first.shape == (1, 3, SIDE, SIDE)
    for kind in kinds[1:]:
        assert torch.equal(image_batch(kind, SIDE), first)
    assert image_batch(kinds[:4], SIDE).shape == (4, 3, SIDE, SIDE)
    said = capsys.readouterr().err
    assert "80 x 48 pixels, not square: it is padded with white (fit='crop' does the other)" in said


def test_pad_and_crop(picture: Image.Image, capsys) -> None:
    padded, cropped = image_batch(picture, SIDE), image_batch(picture, SIDE, "crop")
    assert bool((padded[0, :, 0] == 1).all())
    square = picture.crop((16, 0, 64, 48))
    capsys.readouterr()
    assert torch.equal(cropped, image_batch(square, SIDE))
    assert capsys.readouterr().err == "", "nothing is said of a square"


def test_upright_on_white_first_frame(picture: Image.Image, tmp_path: Path) -> None:
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    loaded = Image.open(tmp_path / "turned.png")
    assert torch.equal(image_batch(loaded, SIDE), image_batch(picture, SIDE))
    assert loaded.size == turned.size, "what was given is not changed"
    clear = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    assert bool((image_batch([clear, np.asarray(clear)], SIDE) == 1).all())
    grey = np.full((SIDE, SIDE), 32768, np.uint16)
    assert image_batch(grey, SIDE).unique().tolist() == [pytest.approx(128 / 255)]
    assert torch.equal(image_batch(Image.fromarray(grey), SIDE), image_batch(grey, SIDE))
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(image_batch(Image.open(tmp_path / "film.gif"), SIDE), image_batch(frames[0], SIDE))


def test_a_float_tensor_of_the_models_size_is_taken_as_it_is() -> None:
    exact = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(image_batch(exact, SIDE), exact)
    assert not torch.equal(image_batch(exact.permute(0, 2, 3, 1).numpy(), SIDE), exact), "an array becomes 8-bit"


@pytest.mark.parametrize(
    ("picture", "line"),
    [
        (5, "'5' is no picture but int"),
        ([], "no picture is given"),
        (torch.full((3, SIDE, SIDE), 2.0), r"lies in \[0, 1\], this one in \[2, 2\]; divide by 255"),
        (torch.full((3, 8, 8), torch.nan), r"lies in \[0, 1\], this one in \[nan, nan\]"),
        (np.zeros((8, 8), np.int64), "uint8, uint16, bool or float, not int64"),
        (torch.zeros(8, 8, 3), r"1 to 4 channels, or none named; this one is of shape \(8, 3, 8\)"),
        ("absent.png", "no image at absent.png"),
        (b"GIF89a", "the picture is not a readable image"),
    ],
)
def test_what_is_no_picture_is_one_line(picture: object, line: str) -> None:
    with pytest.raises(ValueError, match=line) as told:
        image_batch(picture, SIDE)
    assert "\n" not in str(told.value)


def test_a_huge_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it has 9000 x 9000 pixels.*make it smaller first"):
        image_batch(Image.new("1", (9000, 9000)), SIDE)


def test_a_mask_marks_the_codes_it_meets() -> None:
    picture, mask = Image.new("RGB", (64, 64), "red"), np.zeros((64, 64), np.uint8)
    mask[0:16, 16:33] = 255
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1:3] = True
    assert torch.equal(mask_codes(mask, picture, SIDE, (4, 4)), expected)
    wide, long = Image.new("RGB", (64, 32)), np.full((32, 64), True)
    padded = mask_codes(long, wide, SIDE, (4, 4))
    assert padded.all(1).tolist() == [False, True, True, False], "what is padded stays"
    assert bool(mask_codes(long, wide, SIDE, (4, 4), "crop").all())
    with pytest.raises(ValueError, match="the mask has 64 x 32 pixels, the picture 64 x 64; give a mask of its size"):
        mask_codes(long, picture, SIDE, (4, 4))
    with pytest.raises(ValueError, match="the mask is empty: white marks what is to be painted anew"):
        mask_codes(mask * 0, picture, SIDE, (4, 4))
    with pytest.raises(ValueError, match="fit='stretch': 'pad' adds white"):
        image_batch(picture, SIDE, "stretch")  # type: ignore[arg-type]


def test_pixels_come_through_unchanged(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    assert torch.equal(image_batch(noise, SIDE)[0], to_tensor(noise))
