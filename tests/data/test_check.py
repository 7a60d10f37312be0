"""`check_dataset` on codes whose digits are in another order, on a foreign code book, and on text that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datafixtures import write_codes
from torch import Tensor

from mmprime.data import ImageDataset, check_dataset, encode_dataset, prepare_folder, prepare_text
from mmprime.data.code_counts import histogram, unigram_entropy
from mmprime.data.digit_order import AS_STORED, RENUMBERED, REVERSED, readings, survival
from mmprime.engine import Codec
from mmprime.tokenizers import TextTokenizer

RADICES = (4, 3, 2)  # of red, green and blue, the most significant first


class Colours:
    """A code is the mean red, green and blue of a 4 × 4 patch, in 4, 3 and 2 steps.

    Decoded colours have no more green than red, as if only such images had been learned: codes that say otherwise do
    not survive decoding. `order` is the permutation of digits in which codes are written.
    """

    radices, num_codes, grid = RADICES, 24, (4, 4)

    def __init__(self, reverse: bool = False, name: str = "colours") -> None:
        self.reverse, self.name = reverse, name

    def encode(self, images: Tensor) -> Tensor:
        means = torch.nn.functional.avg_pool2d(images, 4).movedim(1, -1)
        digits = (means * (torch.tensor(RADICES) - 1)).round().long()
        if self.reverse:
            return Codec.mixed_radix(RADICES[::-1]).decode(digits.flip(-1))
        return Codec.mixed_radix(RADICES).decode(digits)

    def encode_digits(self, images: Tensor) -> Tensor:
        return Codec.mixed_radix(RADICES).encode(self.encode(images))

    def decode(self, codes: Tensor) -> Tensor:
        colour = Codec.mixed_radix(RADICES).encode(codes) / (torch.tensor(RADICES) - 1)
        colour[..., 1] = torch.minimum(colour[..., 0], colour[..., 1])
        return colour.movedim(-1, 1).repeat_interleave(4, -1).repeat_interleave(4, -2)

    def fingerprint(self) -> str:
        return self.name


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """24 pictures of patches with no more green than red."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    (tmp_path / "p").mkdir()
    for number in range(24):
        colour = torch.rand(4, 4, 3, generator=generator)
        colour[..., 1] *= 0.2 * colour[..., 0]
        pixels = (255 * colour).round().byte().repeat_interleave(4, 0).repeat_interleave(4, 1)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"p/{number}.png")
        (tmp_path / f"p/{number}.txt").write_text(f"picture {number}")
    prepare_folder(tmp_path / "p", tmp_path / "images", 16, 0)
    return tmp_path / "images"


def problems(codes: Path, tokenizer: Colours, images: Path | None = None) -> str:
    return "\n".join(check_dataset(codes, lambda kind: tokenizer, images=images).problems)


@pytest.mark.parametrize("with_images", [True, False])
def test_digits_in_reverse_order_are_named(pictures: Path, tmp_path: Path, with_images: bool) -> None:
    images = pictures if with_images else None
    for reverse in (False, True):
        encode_dataset(pictures, Colours(reverse), tmp_path / f"codes{reverse}")
    assert problems(tmp_path / "codesFalse", Colours(), images) == ""
    found = problems(tmp_path / "codesTrue", Colours(), images)
    assert "bit order mismatch" in found
    assert f"with {REVERSED};" in found


def test_codes_of_another_book_are_found_by_the_images_alone(pictures: Path, tmp_path: Path) -> None:
    class Other(Colours):
        radices = ()  # type: ignore[assignment]

        def encode(self, images: Tensor) -> Tensor:
            return (super().encode(images) + 7) % 24

    encode_dataset(pictures, Other(), tmp_path / "codes")  # with the same fingerprint
    assert "code book mismatch: 0" in problems(tmp_path / "codes", Colours(), pictures)
    assert problems(tmp_path / "codes", Other(), pictures) == ""


def test_images_that_are_not_those_of_the_codes(pictures: Path, tmp_path: Path) -> None:
    real = ImageDataset.load(pictures)
    write_codes(real, Colours(), tmp_path / "codes")
    real.keys = [f"other-{key}" for key in real.keys]
    write_codes(real, Colours(), tmp_path / "renamed")
    assert "none of 24 keys of the codes" in problems(tmp_path / "renamed", Colours(), pictures)
    with pytest.raises(ValueError, match="images is for codes with their tokenizer"):
        check_dataset(tmp_path / "codes", None, images=pictures)


def test_digits_and_codes_are_inverse_and_readings_are_bijections() -> None:
    codes = torch.arange(24)
    digits = Codec.mixed_radix(RADICES).encode(codes)
    assert digits[23].tolist() == [3, 2, 1]
    assert digits[6].tolist() == [1, 0, 0]  # the first digit is worth 3 · 2
    assert torch.equal(Codec.mixed_radix(RADICES).decode(digits), codes)
    for radices, count in ((RADICES, 5), ((2, 2, 2), 5), ((8,), 3), ((), 2)):
        tables = readings(radices, 24 if radices in (RADICES, ()) else 8)
        assert len(tables) == count  # one digit has no order, so only its other end is new
        assert list(tables)[:2] == [AS_STORED, RENUMBERED]
        assert all(torch.equal(table.sort().values, torch.arange(len(table))) for table in tables.values())
    assert readings((2, 2, 2), 8)[REVERSED].tolist() == [0, 4, 2, 6, 1, 5, 3, 7]  # bits reversed
    assert readings((4, 2), 8)[REVERSED][5] == 3  # 5 = 1 + 4 · 1 is read as 1 · 2 + 1
    with pytest.raises(ValueError, match="do not make 9 codes"):
        readings((2, 2), 9)


def test_survival_of_what_the_decoder_cannot_show() -> None:
    red, green = torch.tensor([[18] * 16]), torch.tensor([[4] * 16])  # digits 3 0 0 and 0 2 0
    tables = {AS_STORED: torch.arange(24)}
    assert survival(red, Colours(), tables) == {AS_STORED: 1.0}
    assert survival(green, Colours(), tables) == {AS_STORED: 0.0}


def test_histogram_and_entropy_of_known_counts() -> None:
    counts = torch.tensor([0, 0, 1, 2, 3, 8, 15])
    assert histogram(counts) == "0: 2, 1: 1, 2-3: 2, 8-15: 2"
    assert unigram_entropy(torch.tensor([5, 5, 5, 5, 0])) == pytest.approx(torch.tensor(4.0).log().item())


def test_text_that_leaks_is_too_long_or_of_another_vocabulary(tmp_path: Path) -> None:
    for name, text in (("a", "again and again"), ("b", "again and again"), ("c", "word " * 40), ("d", "short")):
        (tmp_path / f"{name}.txt").write_text(text)
    prepare_text([tmp_path], tmp_path / "out", 0.25)
    fitting = TextTokenizer.train(["again and again word word short " * 20], 300)
    report = check_dataset(tmp_path / "out", lambda kind: fitting, max_tokens=30)
    assert [p for p in report.problems if "documents over 30 tokens: c.txt" in p]
    assert not [p for p in report.problems if "vocabulary mismatch" in p]
    assert any("bits a byte, the floor" in fact for fact in report.facts)

    class Foreign(TextTokenizer):
        pass

    foreign = Foreign(TextTokenizer.bytes()._inner)
    foreign.vocab_size = 2048  # as many ids, and every token a single byte
    report = check_dataset(tmp_path / "out", lambda kind: foreign)
    assert [p for p in report.problems if "vocabulary mismatch: 1.00 bytes a token with 2048 ids" in p]


def test_held_out_text_that_is_also_in_train(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("the same text")
    prepare_text([tmp_path], tmp_path / "out", 0.25)
    assert any("1 held-out documents that are also in train" in p for p in check_dataset(tmp_path / "out").problems)


def test_captions_that_training_cuts_are_counted(tmp_path: Path, pictures: Path) -> None:
    encode_dataset(pictures, Colours(), tmp_path / "codes")
    words = TextTokenizer.bytes()
    for folder in (pictures, tmp_path / "codes"):
        report = check_dataset(folder, words=words, max_tokens=10)
        assert "tokens of a caption and its end: median 11, longest 11 (data.text_length=11 cuts none)" in report.facts
        assert any("14 captions that data.text_length=10 cuts: 'picture 10'" in problem for problem in report.problems)
        assert check_dataset(folder, words=words, max_tokens=11).problems == []
