"""Digits in shards: packed bit by bit, the same when read, and what `check_dataset` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datafixtures import write_codes

from mmprime.data import CodeDataset, ImageDataset, check_dataset, encode_dataset, prepare_folder
from mmprime.data.digit_packing import pack_digits, unpack_digits, widths
from mmprime.tokenizers import PCATokenizer, PixelTokenizer


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 pictures of 16 px: coloured ramps with a little noise."""
    from PIL import Image

    generator = np.random.default_rng(0)
    (tmp_path / "p").mkdir()
    for number in range(40):
        ends = generator.random((2, 2, 3))
        across, down = np.meshgrid(np.linspace(0, 1, 16), np.linspace(0, 1, 16))
        ramp = across[..., None] * ends[0, 0] + down[..., None] * ends[0, 1] + 0.1 * generator.random((16, 16, 3))
        Image.fromarray((255 * ramp / ramp.max()).astype(np.uint8)).save(tmp_path / f"p/{number}.png")
        (tmp_path / f"p/{number}.txt").write_text(f"picture {number}")
    prepare_folder(tmp_path / "p", tmp_path / "images", 16, 0.2)
    return tmp_path / "images"


@pytest.mark.parametrize(
    "radices", [(2,) * 36, (8,) * 12, (16, 16), (256,), (4, 3, 2), (1024, 5), (70000, 2), (128, 7)]
)
def test_packed_digits_are_the_same_bit_for_bit(radices: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    digits = np.stack([generator.integers(0, base, (5, 7)) for base in radices], -1)
    digits[0, 0], digits[0, 1] = 0, np.asarray(radices) - 1
    packed = pack_digits(digits, radices)
    assert packed.shape == (5, -(-7 * sum(widths(radices)) // 8))
    assert np.array_equal(unpack_digits(packed, 7, radices), digits)
    with pytest.raises(ValueError, match="expected"):
        unpack_digits(packed[:, 1:], 7, radices)
    with pytest.raises(ValueError, match="digits span"):
        pack_digits(digits + 1, radices)


def test_the_first_bits_are_those_of_the_first_digit() -> None:
    assert pack_digits(np.array([[[5, 1, 2]]]), (8, 2, 16)).tolist() == [[0b10110010]]


def test_digits_beyond_their_radix_are_refused() -> None:
    with pytest.raises(ValueError, match=r"digits up to \[7\], the radices are \[5\]"):
        unpack_digits(np.array([[0b11100000]], np.uint8), 1, (5,))


def test_digit_shards_round_trip(images: Path, tmp_path: Path) -> None:
    tokenizer = PCATokenizer.fit(ImageDataset.load(images, "train").images, 4, [16, 8, 8, 4, 2, 2, 2, 2])
    index = encode_dataset(images, tokenizer, tmp_path / "codes")
    assert (index["radices"], index["num_codes"]) == ([16, 8, 8, 4, 2, 2, 2, 2], 2**16)
    data, pictures = CodeDataset.load(tmp_path / "codes"), ImageDataset.load(images)
    assert (data.radices, data.tokens.dtype, data.tokens.shape) == (tokenizer.radices, torch.uint8, (40, 16, 8))
    number = {key: i for i, key in enumerate(pictures.keys)}
    pixels = pictures.images[[number[key] for key in data.keys]].float() / 255
    assert torch.equal(data.digits.long(), tokenizer.encode_digits(pixels).flatten(1, 2))
    assert torch.equal(data.codes.long(), tokenizer.encode(pixels).flatten(1))
    assert data.captions == [pictures.captions[number[key]] for key in data.keys]


def test_few_codes_are_stored_as_integers_and_read_as_digits_too(images: Path, tmp_path: Path) -> None:
    tokenizer = PCATokenizer.fit(ImageDataset.load(images, "train").images, 4, [8, 4, 2])
    encode_dataset(images, tokenizer, tmp_path / "codes")
    data = CodeDataset.load(tmp_path / "codes")
    assert (data.tokens.dtype, data.tokens.shape, data.radices) == (torch.int32, (40, 16), (8, 4, 2))
    assert torch.equal(data.codec().decode(data.digits), data.codes.long())
    index = json.loads((tmp_path / "codes/index.json").read_text())
    del index["radices"]  # as of a folder written without them
    (tmp_path / "codes/index.json").write_text(json.dumps(index))
    older = CodeDataset.load(tmp_path / "codes")
    assert (older.radices, older.digits.shape) == ((), (40, 16, 1))
    assert check_dataset(tmp_path / "codes", lambda kind: tokenizer, images=images).problems == []


@pytest.mark.parametrize(
    ("radices", "message"),
    [
        ([8] * 11, "do not make num_codes"),
        ([8.0], "radices cannot be"),
        ([], "radices cannot be"),
        ([1, 2], "cannot be"),
    ],
)
def test_radices_that_do_not_fit_are_refused(radices: list[float], message: str, images: Path, tmp_path: Path) -> None:
    tokenizer = PCATokenizer.fit(ImageDataset.load(images, "train").images, 4, [8] * 12)
    encode_dataset(images, tokenizer, tmp_path / "codes")
    index = json.loads((tmp_path / "codes/index.json").read_text())
    (tmp_path / "codes/index.json").write_text(json.dumps({**index, "radices": radices}))
    with pytest.raises(ValueError, match=message):
        CodeDataset.load(tmp_path / "codes")


def test_report_on_digits(images: Path, tmp_path: Path) -> None:
    tokenizer = PCATokenizer.fit(ImageDataset.load(images, "train").images, 4, [8] * 8)
    encode_dataset(images, tokenizer, tmp_path / "codes")
    digits = CodeDataset.load(tmp_path / "codes").digits
    report = check_dataset(tmp_path / "codes", lambda kind: tokenizer, images=images)
    assert report.problems == []
    facts = "\n".join(report.facts)
    share = torch.bincount(digits[..., 0].flatten(), minlength=8).double() / digits[..., 0].numel()
    entropy = float(-(share[share > 0] * share[share > 0].log()).sum())
    assert f"entropy by level, nats: {entropy:.3f}, " in facts
    assert f"values used, by level: {int((share > 0).sum())}/8, " in facts
    assert f"ln C = {24 * np.log(2):.4f}" in facts
    assert "digits that 32 images encoded again agree with: 100.0%" in facts
    assert check_dataset(tmp_path / "codes", lambda kind: tokenizer).problems == []


class Reversed(PCATokenizer):
    """Writes its digits in the reverse order."""

    def encode_digits(self, images: torch.Tensor) -> torch.Tensor:
        return super().encode_digits(images).flip(-1)


def test_wrong_digits_are_named(images: Path, tmp_path: Path) -> None:
    pictures = ImageDataset.load(images)
    made = Reversed.fit(pictures.images, 4, [8] * 8)
    write_codes(pictures, made, tmp_path / "codes")
    right = PCATokenizer.fit(pictures.images, 4, [8] * 8)
    assert right.fingerprint() == made.fingerprint()
    (problem,) = check_dataset(tmp_path / "codes", lambda kind: right, images=images).problems
    assert "bit order mismatch" in problem
    assert "with digits in reverse order;" in problem
    other = PCATokenizer.fit(pictures.images, 4, [4] * 12)  # as many codes
    problems = "\n".join(check_dataset(tmp_path / "codes", lambda kind: other).problems)
    assert f"radices mismatch: the codes were made with {(8,) * 8}, this tokenizer has {(4,) * 12}" in problems


def test_pixels_survive_in_every_order_and_are_told_by_the_images(images: Path, tmp_path: Path) -> None:
    pictures = ImageDataset.load(images)
    write_codes(pictures, PixelTokenizer(16, 3, "nibbles"), tmp_path / "codes")
    bits = check_dataset(tmp_path / "codes", lambda kind: PixelTokenizer(16, 3, "nibbles"), images=images)
    assert bits.problems == []
    assert CodeDataset.load(tmp_path / "codes").tokens.shape == (40, 256, 6)
