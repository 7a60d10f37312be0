"""Tokens that are digits: what every image tokenizer offers, at sizes for which there is no table of codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_image_tokenizer import make, pictures
from torch import Tensor

from mmprime.data import ImageDataset
from mmprime.engine import MASK_ID, Codec
from mmprime.tokenizers import (
    ImageTokenizerBase,
    PCATokenizer,
    PixelTokenizer,
    load_image_tokenizer,
)
from mmprime.tokenizers.pca import PCAConfig, lloyd

ROOT = Path(__file__).resolve().parents[2]


def noise(count: int = 16, size: int = 16) -> Tensor:
    """Smooth uint8 pictures (n, 3, size, size)."""
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    large = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear")
    return (255 * large).round().byte()


def autoencoder(kind: str, **changes: Any) -> Callable[[], ImageTokenizerBase]:
    def made() -> ImageTokenizerBase:
        model = make(kind, **changes)
        model(pictures())  # starts the code books
        model.quantizer.update()
        return model.eval()

    return made


MAKERS: dict[str, Callable[[], ImageTokenizerBase]] = {
    "vq": autoencoder("vq"),
    "fsq 2^18": autoencoder("fsq", levels=[8] * 6, num_codes=2**18),
    "fsq 2^40": autoencoder("fsq", levels=[16, 4, 4] * 5, num_codes=2**40),
    "lfq 2^18": autoencoder("lfq", num_codes=2**18),
    "bsq 2^36": autoencoder("bsq", num_codes=2**36),
    "bsq 2^64": autoencoder("bsq", num_codes=2**64),
    "rvq 2^18": autoencoder("rvq", levels=[64] * 3, num_codes=2**18),
    "gvq 2^16": autoencoder("gvq", levels=[16] * 4, num_codes=2**16),
    "pca 2^36": lambda: PCATokenizer.fit(noise(), 4, [16, 16, *[8] * 8, *[2] * 4]),
    "grey values": lambda: PixelTokenizer(16, 1, "values"),
    "grey nibbles": lambda: PixelTokenizer(16, 1, "nibbles"),
    "colour bits": lambda: PixelTokenizer(16, 3, "bits"),
}
PRODUCTS = [name for name in MAKERS if name != "vq"]


def images_for(name: str) -> Tensor:
    images = noise().float() / 255
    return images[:, :1].expand(-1, 3, -1, -1) if name.startswith("grey") else images


def random_digits(tokenizer: ImageTokenizerBase, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    columns = [torch.randint(b, (count, *tokenizer.grid), generator=generator) for b in tokenizer.codec().radices]
    return torch.stack(columns, -1)


@pytest.mark.parametrize("name", MAKERS)
def test_digits_and_codes_are_two_names_of_a_token(name: str) -> None:
    tokenizer, images = MAKERS[name](), images_for(name)
    digits = tokenizer.encode_digits(images)
    radices = torch.tensor(tokenizer.codec().radices)
    assert digits.shape == (16, *tokenizer.grid, len(radices))
    assert digits.dtype == torch.int64
    assert ((digits >= 0) & (digits < radices)).all()
    restored = tokenizer.decode_digits(digits)
    assert restored.shape == images.shape
    assert 0 <= restored.min() <= restored.max() <= 1
    if tokenizer.num_codes > 2**62:
        with pytest.raises(ValueError, match="2\\^62"):
            tokenizer.encode(images)
        return
    codes = tokenizer.encode(images)
    assert torch.equal(Codec.product(tokenizer.codec().radices).encode(codes), digits)
    assert torch.equal(tokenizer.decode(codes), restored)


@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_tokenizer_is_the_same_one(name: str, tmp_path: Path) -> None:
    tokenizer, digits = MAKERS[name](), random_digits(MAKERS[name]())
    tokenizer.save(tmp_path / "t", torch.float32)
    loaded = load_image_tokenizer(tmp_path / "t")
    assert (type(loaded), loaded.radices, loaded.grid) == (type(tokenizer), tokenizer.radices, tokenizer.grid)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert torch.equal(loaded.decode_digits(digits), tokenizer.decode_digits(digits))
    assert torch.equal(loaded.encode_digits(images_for(name)), tokenizer.encode_digits(images_for(name)))


@pytest.mark.parametrize("name", MAKERS)
def test_digits_that_are_none_are_refused(name: str) -> None:
    tokenizer = MAKERS[name]()
    digits = random_digits(tokenizer)
    for bad in (-2, tokenizer.codec().radices[0]):
        odd = digits.clone()
        odd[1, 0, 0, 0] = bad
        with pytest.raises(ValueError, match=f"{bad}.* must lie below"):
            tokenizer.decode_digits(odd)
    with pytest.raises(ValueError, match="integers"):
        tokenizer.decode_digits(digits.float())
    with pytest.raises(ValueError, match="integers"):
        tokenizer.decode_digits(digits.repeat(1, 1, 1, 2))


@pytest.mark.parametrize("name", PRODUCTS)
def test_half_known_digits_decode_to_something_between(name: str) -> None:
    tokenizer = MAKERS[name]()
    digits = random_digits(tokenizer)
    blank = tokenizer.decode_digits(torch.full_like(digits, MASK_ID))
    assert torch.isfinite(blank).all()
    assert torch.allclose(blank, blank[:1].expand_as(blank))
    digits[..., len(tokenizer.radices) // 2 :] = MASK_ID
    assert tokenizer.decode_digits(digits).shape == blank.shape


@pytest.mark.parametrize("kind", ["fsq", "lfq", "bsq", "rvq", "gvq"])
def test_a_masked_digit_is_the_mean_of_the_codes_that_agree(kind: str) -> None:
    tokenizer = autoencoder(kind)()
    book = tokenizer.codebook_vectors()
    digits = tokenizer.codec().encode(torch.arange(tokenizer.num_codes))
    level = 1
    for value in range(tokenizer.radices[level]):
        asked = torch.full((1, *tokenizer.grid, len(tokenizer.radices)), MASK_ID)
        asked[..., level] = value
        mean = book[digits[:, level] == value].mean(0).expand(1, *tokenizer.grid, -1)
        torch.testing.assert_close(tokenizer.decode_digits(asked), tokenizer.decode_vectors(mean), atol=1e-5, rtol=1e-5)


def test_a_table_of_too_many_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match=f"vectors of {2**36} codes would be too large"):
        MAKERS["bsq 2^36"]().codebook_vectors()
    for name in ("pca 2^36", "grey nibbles"):
        with pytest.raises(ValueError, match="no code book"):
            MAKERS[name]().codebook_vectors()


def test_the_entropy_of_many_bits_is_that_of_few() -> None:
    """By bits and by codes: the entropy of each is the same, the one of their mean not below."""
    from mmprime.tokenizers.quantizers import scalar

    model = make("lfq", entropy=1.0, commitment=0.0)
    vectors = 0.1 * torch.randn(64, 6, 4, 4, generator=torch.Generator().manual_seed(0))  # independent dimensions
    exact = model.quantizer(vectors).loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scalar, "EXACT_ENTROPY", 1)
        by_bits = model.quantizer(vectors).loss
    assert by_bits <= exact + 1e-4
    torch.testing.assert_close(by_bits, exact, atol=0.05, rtol=0)


def test_residual_levels_run_from_coarse_to_fine() -> None:
    """Each further level of a residual quantizer brings its sum nearer to the vectors."""
    model = make("rvq", levels=[16, 16, 16], num_codes=2**12)
    vectors = torch.randn(64, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        model.quantizer(vectors)
        model.quantizer.update()
    model.eval()
    digits = model.quantizer(vectors).digits
    parts = [
        book.vectors_of(digits[..., level : level + 1]).movedim(-1, 1)
        for level, book in enumerate(model.quantizer._each())  # type: ignore[union-attr]
    ]
    errors = [float((vectors - sum(parts[: level + 1])).square().mean()) for level in range(3)]
    assert errors[0] > 1.1 * errors[1] > 1.2 * errors[2]
    joined = model.quantizer.vectors_of(digits).movedim(-1, 1)
    torch.testing.assert_close(model.quantizer(vectors).vectors, joined)


# ---------------------------------------------------------------- PCA


def test_pca_reaches_twenty_decibels_with_36_bits_on_held_out_emoji() -> None:
    train = ImageDataset.load(ROOT / "assets/emoji", "train").images
    tokenizer = PCATokenizer.fit(train, 8, [8] * 12)
    assert tokenizer.num_codes == 2**36
    again = PCATokenizer.fit(train, 8, [8] * 12)
    assert again.fingerprint() == tokenizer.fingerprint()
    for split in ("val_vendor", "val_caption"):
        images = ImageDataset.load(ROOT / "assets/emoji", split).images.float() / 255
        error = (tokenizer.decode_digits(tokenizer.encode_digits(images)) - images).square().mean((1, 2, 3))
        assert -10 * error.log10().mean() >= 20


def test_pca_is_the_best_plane_and_digits_run_from_coarse_to_fine() -> None:
    images = noise()
    tokenizer = PCATokenizer.fit(images, 4, [16] * 6)
    patches = images.double().div(255).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48)
    centred = patches - patches.mean(0)
    basis = tokenizer.basis.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(6).double(), atol=1e-5, rtol=0)
    kept = (centred @ basis.T).square().sum() / centred.square().sum()
    singular = torch.linalg.svdvals(centred).square()
    assert float(kept) == pytest.approx(float(singular[:6].sum() / singular.sum()), rel=1e-5)
    pixels, errors = images.float() / 255, []
    digits = tokenizer.encode_digits(pixels)
    for known in range(7):
        part = digits.clone()
        part[..., known:] = MASK_ID
        errors.append(float((tokenizer.decode_digits(part) - pixels).square().mean()))
    assert errors == sorted(errors, reverse=True)


def test_lloyd_finds_clusters_and_refuses_too_few_values() -> None:
    values = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 9.0], dtype=torch.float64)
    assert lloyd(values, 3).tolist() == pytest.approx([0.1, 5.05, 9.0])
    assert lloyd(values, 6).tolist() == pytest.approx(values.tolist())
    with pytest.raises(ValueError, match="component 0 has 1 different values in these pictures, fewer than 2 levels"):
        PCATokenizer.fit(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), 4, [2])


@pytest.mark.parametrize(
    ("size", "patch", "levels", "message"),
    [
        (16, 5, (8,), "image_size=16 must be a multiple of patch=5"),
        (16, 2, (2,) * 13, "13 components; a patch of 2 x 2 x 3 has 1 to 12"),
        (16, 4, (8, 1), r"levels=\[8, 1\]: 1 must lie in \[2, 65536\]"),
        (16, 4, (), "0 components"),
        (2**40, 2**40, (8,), "at most 8192"),
    ],
)
def test_pca_sizes_that_do_not_fit_are_refused(size: int, patch: int, levels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PCAConfig(size, patch, levels)


def test_a_pca_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    MAKERS["pca 2^36"]().save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())

    def altered(**changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**stored, **changes}))

    for config, message in (
        ({**stored["config"], "levels": [16] * 14}, r"levels_2 is \(8,\), the config asks for \(16,\)"),
        ({**stored["config"], "levels": "88"}, "levels="),
        ({**stored["config"], "colour": 1}, "colour"),
        ({"patch": 4}, "image_size"),
    ):
        altered(config=config)
        with pytest.raises(ValueError, match=message):
            load_image_tokenizer(tmp_path)
    altered(kind="jpeg")
    with pytest.raises(ValueError, match=r"kind 'jpeg'.* expected 'image_tokenizer' or 'pca' or 'pixels'"):
        load_image_tokenizer(tmp_path)
    altered()
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "mean": tensors["mean"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="damaged or of another model"):
        load_image_tokenizer(tmp_path)


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("digits", ["values", "nibbles", "bits"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_the_identity(channels: int, digits: str) -> None:
    tokenizer = PixelTokenizer(16, channels, digits)
    every = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, -1, -1) / 255
    images = every if channels == 1 else torch.cat([every, noise().float() / 255])
    assert torch.equal((tokenizer.decode_digits(tokenizer.encode_digits(images)) * 255).round(), (images * 255).round())
    assert tokenizer.num_codes == 256**channels


def test_pixel_digits_are_most_significant_first_and_masked_ones_their_mean() -> None:
    tokenizer = PixelTokenizer(1, 3, "nibbles")
    pixel = torch.tensor([0xAB, 0xCD, 0xEF]).view(1, 3, 1, 1)
    digits = tokenizer.encode_digits(pixel / 255)
    assert digits.flatten().tolist() == [0xA, 0xC, 0xE, 0xB, 0xD, 0xF]
    digits[..., 3:] = MASK_ID
    half = tokenizer.decode_digits(digits) * 255
    assert half.flatten().tolist() == pytest.approx([0xA0 + 7.5, 0xC0 + 7.5, 0xE0 + 7.5])


def test_pixels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"coloured.*channels=3"):
        PixelTokenizer(16).encode_digits(noise().float() / 255)
    for arguments, message in (((0,), "image_size=0"), ((8, 2), "channels=2"), ((8, 1, "trits"), "'trits'.*nibbles")):
        with pytest.raises(ValueError, match=message):
            PixelTokenizer(*arguments)
    PixelTokenizer(8).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "config": {"image_size": "8"}}))
    with pytest.raises(ValueError, match=r"config\.json: image_size='8'"):
        load_image_tokenizer(tmp_path)
