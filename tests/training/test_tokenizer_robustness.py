"""What a tokenizer's training does to images and digits: mirrored, moved, not yet quantized, some digits wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmprime.data import prepare_folder
from mmprime.tokenizers import ImageTokenizer, ImageTokenizerConfig
from mmprime.training.config import ConfigError
from mmprime.training.schema import DataConfig, RunConfig, TokenizerLossConfig, TokenizerRunConfig, TrainConfig
from mmprime.training.tasks.tokenizer import TokenizerTask, augmented

FSQ = {"quantizer": "fsq", "levels": [4, 5, 8], "num_codes": 160}


def small(**choices: object) -> ImageTokenizerConfig:
    shape = {"image_size": 16, "downsample": 4, "patch": 2, "widths": [8, 16], "code_dim": 4, "num_codes": 32}
    blocks = {"encoder_blocks": [1, 1], "decoder_blocks": [1, 1]}
    return ImageTokenizerConfig(**{**shape, **blocks, **choices})  # type: ignore[arg-type]


def task(root: Path, tokenizer: ImageTokenizerConfig, loss: TokenizerLossConfig) -> TokenizerTask:
    dice = np.random.default_rng(0)
    (root / "pictures").mkdir()
    for index in range(12):
        Image.fromarray(dice.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "pictures" / f"{index}.png")
        (root / "pictures" / f"{index}.txt").write_text("noise")
    prepare_folder(root / "pictures", root / "shards", size=16, split_fraction=0.2)
    settings = TokenizerRunConfig(
        task="tokenizer",
        run=RunConfig(dir=str(root)),
        train=TrainConfig(steps=2, batch=4),
        data=DataConfig(path=str(root / "shards"), validation=["val"]),
        loss=loss,
    )
    settings.tokenizer = tokenizer
    return TokenizerTask(settings)


def test_images_are_mirrored_and_moved_with_their_border_repeated() -> None:
    column, row = torch.arange(8), torch.arange(8)[:, None]
    images = (10 * row + column).to(torch.uint8).expand(64, 3, 8, 8)
    seen = augmented(images, TokenizerLossConfig(flip=True, shift=2), torch.Generator().manual_seed(0))
    expected = {}
    for mirrored in (False, True):
        for down in range(-2, 3):
            for right in range(-2, 3):
                moved = (10 * (row + down).clamp(0, 7) + (column + right).clamp(0, 7)).to(torch.uint8)
                source = 10 * row + (7 - column if mirrored else column)
                rows, columns = (row + down).clamp(0, 7), (column + right).clamp(0, 7)
                moved = source[rows[:, 0]][:, columns].to(torch.uint8)
                expected[mirrored, down, right] = moved
    which = [
        next(key for key, wanted in expected.items() if all(torch.equal(channel, wanted) for channel in image))
        for image in seen
    ]
    assert {mirrored for mirrored, _, _ in which} == {False, True}
    assert {down for _, down, _ in which} == {right for _, _, right in which} == {-2, -1, 0, 1, 2}
    assert augmented(images, TokenizerLossConfig(), torch.Generator()) is images


def test_wrong_digits_are_next_to_the_right_ones_in_the_share_asked_for() -> None:
    quantizer = ImageTokenizer(small(**FSQ)).quantizer
    torch.manual_seed(0)
    digits = torch.stack([torch.randint(base, (4, 40, 40)) for base in quantizer.bounds], -1)
    share = torch.tensor([0.0, 0.1, 0.5, 1.0])
    moved = quantizer.near(digits, share)
    assert all(int(moved[..., level].min()) >= 0 for level in range(3))
    assert all(int(moved[..., level].max()) < base for level, base in enumerate(quantizer.bounds))
    distance = (moved - digits).abs()
    assert int(distance.max()) == 1
    assert torch.allclose(distance.float().mean((1, 2, 3)), share, atol=0.03)
    inner = (digits > 0) & (digits < torch.tensor(quantizer.bounds) - 1) & (distance > 0)
    assert abs(float((moved > digits)[inner].float().mean()) - 0.5) < 0.03


def test_the_decoder_gets_the_wrong_digits() -> None:
    tokenizer = ImageTokenizer(small(**FSQ)).train()
    images = torch.rand(3, 3, 16, 16)
    torch.manual_seed(1)
    result = tokenizer(images, torch.tensor([0.0, 0.3, 1.0]))
    torch.manual_seed(1)
    wrong = tokenizer.quantizer.near(result.digits, torch.tensor([0.0, 0.3, 1.0]))
    expected = tokenizer.decode_digits(wrong)
    torch.testing.assert_close(result.reconstruction.clamp(0, 1), expected)
    torch.testing.assert_close(result.reconstruction[0], tokenizer(images).reconstruction[0])
    assert not torch.allclose(result.reconstruction[2], tokenizer(images).reconstruction[2])


@pytest.mark.parametrize("levels", [[4, 5, 8], [3, 6, 16, 7]])
def test_continuous_vectors_round_to_the_codes(levels: list[int]) -> None:
    count = int(np.prod(levels))
    quantizer = ImageTokenizer(small(quantizer="fsq", levels=levels, num_codes=count)).quantizer
    vectors = torch.randn(2, len(levels), 9, 9) * 3
    half = torch.tensor([base // 2 for base in levels])[:, None, None]
    assert torch.equal((quantizer.continuous(vectors) * half).round(), (quantizer(vectors).vectors * half).round())


def test_quantization_starts_when_told(tmp_path: Path) -> None:
    made = task(tmp_path, small(**FSQ), TokenizerLossConfig(l2=0.5, quantize_from=3))
    images = made.images[torch.arange(4)].float() / 255
    both = (made.tokenizer.reconstruct_continuous(images), made.tokenizer(images).reconstruction)
    for step, restored in zip((2, 3), both):
        ((_, loss, terms),) = made.losses(torch.arange(4), torch.Generator(), step)
        error = restored - images
        assert float(loss.detach()) == pytest.approx(float((error.abs().mean() + 0.5 * error.square().mean()).detach()))
        assert ("quantizer" in terms) == (step == 3)


def test_codes_without_an_order_have_no_near_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.wrong_digits=0\.1 .*quantizer=vq have no order"):
        task(tmp_path, small(), TokenizerLossConfig(wrong_digits=0.1))
