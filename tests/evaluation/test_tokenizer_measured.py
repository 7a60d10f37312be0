"""The command tokenizer on exact and untrained ones, with features that are colours only; PSNR and SSIM."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from picture_world import cosines, noise_dataset, run_command
from pipeline_world import tiny_image_tokenizer

from mmprime.cli.evaluations import tokenizer
from mmprime.data import ImageDataset
from mmprime.evaluation.datasets import choose_rows
from mmprime.evaluation.images import effnet
from mmprime.evaluation.images.reconstruction import psnr, reconstruct, ssim
from mmprime.tokenizers import PixelTokenizer, load_image_tokenizer

pytestmark = pytest.mark.usefixtures("colour_extractors")


def test_psnr_meets_its_formula() -> None:
    image = torch.full((2, 3, 4, 4), 0.5)
    shifted = image + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(image, shifted).tolist() == pytest.approx([20, 40], rel=1e-4)
    assert psnr(image, image).tolist() == [80, 80]


def test_ssim_meets_its_formula() -> None:
    x, z = torch.rand(2, 1, 3, 13, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = [math.exp(-(((i - 5) ** 2) + (j - 5) ** 2) / (2 * 1.5**2)) for i in range(11) for j in range(11)]
    kernel = torch.tensor(weight, dtype=torch.float64).view(11, 11)
    kernel /= kernel.sum()
    values = []
    for channel, top, left in itertools.product(range(3), range(3), range(2)):
        a, b = (image[0, channel, top : top + 11, left : left + 11] for image in (x, z))
        mean_a, mean_b = (kernel * a).sum(), (kernel * b).sum()
        both = (kernel * (a - mean_a) * (b - mean_b)).sum()
        each = (kernel * ((a - mean_a) ** 2 + (b - mean_b) ** 2)).sum()
        light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        values.append(float(light * (2 * both + 9e-4) / (each + 9e-4)))
    assert float(ssim(x, z)) == pytest.approx(sum(values) / len(values))
    assert ssim(x, x).tolist() == pytest.approx([1])
    assert ssim(x[..., :4, :6], x[..., :4, :6]).tolist() == pytest.approx([1])  # smaller than a window


def test_a_tokenizer_of_digits(tmp_path: Path) -> None:
    data = noise_dataset(tmp_path / "data")
    images = ImageDataset.load(data, "val_vendor").images
    PixelTokenizer(images.shape[-1], 3, "nibbles").save(tmp_path / "tokenizer")
    measured = run_command(tokenizer, "--tokenizer", tmp_path / "tokenizer", "--data", data, "--metric", "none")
    rows = {row.metric.removeprefix("val_vendor: "): row.value for row in measured}
    assert (rows["PSNR"], rows["SSIM"]) == (80, pytest.approx(1))
    assert [name for name in rows if "digit " in name] == [f"perplexity of digit {level}" for level in range(1, 7)]
    assert all(1 <= rows[f"perplexity of digit {level}"] <= 16 for level in range(1, 7))


def test_a_tokenizer(tmp_path: Path) -> None:
    tiny_image_tokenizer().save(tmp_path / "tokenizer", torch.float32)
    data = noise_dataset(tmp_path / "data")
    rows = run_command(tokenizer, "--tokenizer", tmp_path / "tokenizer", "--data", data, "--metric", "fd-effnet-lite0")
    names = [row.metric.removeprefix("val_vendor: ").split(" (")[0] for row in rows]
    assert names == ["PSNR", "SSIM", "codes used", "code perplexity", "encode and decode", "rFD-EffNet-Lite0"]
    images = ImageDataset.load(data, "val_vendor").images
    found = reconstruct(tiny_image_tokenizer(), images, batch=2)
    error = (images.double() / 255 - found.images.double() / 255).square().mean((1, 2, 3))
    assert rows[0].value == pytest.approx(float((-10 * error.log10()).mean()), abs=0.05)  # but for rounding to 8 bits
    assert rows[0].stderr == pytest.approx(float(found.psnr.std()) / 5**0.5)
    assert -1 <= rows[1].value < 1
    assert 1 / 16 <= rows[2].value <= 1
    assert 1 <= rows[3].value <= 16
    with pytest.raises(ValueError, match="takes 32 x 32"):
        reconstruct(tiny_image_tokenizer(), images[..., :16])
    with pytest.raises(ValueError, match="--metric kid is not one of a tokenizer"):
        run_command(tokenizer, "--tokenizer", tmp_path / "tokenizer", "--data", data, "--metric", "kid")


def test_a_tokenizer_that_keeps_captions_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = noise_dataset(tmp_path / "data")
    PixelTokenizer(32, 3, "nibbles").save(tmp_path / "exact")
    tiny_image_tokenizer().save(tmp_path / "tiny", torch.float32)
    monkeypatch.setattr(effnet, "weights_file", lambda: tmp_path)
    wanted = {}
    real = ImageDataset.load(data)
    for name in ("exact", "tiny"):
        rows = run_command(tokenizer, "--tokenizer", tmp_path / name, "--data", data, "--split", "train", "--limit", 6)
        assert "6 pictures are too few for a kernel distance" in capsys.readouterr().err
        shares = {row.metric: row.value for row in rows if row.unit == "share"}
        assert all(row.num_samples == 6 for row in rows)
        chosen = choose_rows(10, 6, 0)
        made = reconstruct(load_image_tokenizer(tmp_path / name), real.images[chosen]).images
        cosine = [cosines(picture, real.images) for picture in made]
        free = [max(range(15), key=line.__getitem__) for line in cosine]
        others = [
            max((j for j in range(15) if j // 5 != i // 5), key=line.__getitem__) for i, line in zip(chosen, cosine)
        ]
        wanted[name] = [sum(j % 5 == i % 5 for i, j in zip(chosen, found)) / 6 for found in (free, others)]
        kept = [
            shares[f"train: caption kept, {how}"] for how in ("own original in the gallery", "against other vendors")
        ]
        assert kept == pytest.approx(wanted[name])
        assert shares["train: ceiling: the originals, against other vendors"] == pytest.approx(wanted["exact"][1])
    assert wanted["exact"][0] == 1 > wanted["tiny"][0]
    monkeypatch.setattr(effnet, "weights_file", _absent)
    rows = run_command(tokenizer, "--tokenizer", tmp_path / "tiny", "--data", data)
    assert not any(row.unit in ("share", "squared MMD") for row in rows)
    assert "warning: not installed; without it there are no kid-effnet-lite0 and captions" in capsys.readouterr().err


def _absent() -> Path:
    raise ValueError("not installed")
