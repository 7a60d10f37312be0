"""Image tokenizers: they learn, they refuse what does not fit, and a saved one is the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizer_world import BOOKS, KINDS, SMALL, make
from torch import Tensor

from mmprime.tokenizers import ImageTokenizer, ImageTokenizerConfig
from mmprime.tokenizers.quantizers import code_usage


def pictures(count: int = 16) -> Tensor:
    """Two flat colours each, split by a straight line."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(2, count, 3, 1, 1, generator=generator)
    angle = 6.28 * torch.rand(count, 1, 1, 1, generator=generator)
    axis = torch.linspace(-1, 1, 16)
    side = (axis[:, None] * angle.sin() + axis * angle.cos() > 0).float()
    return colours[0] * side + colours[1] * (1 - side)


def fit(model: ImageTokenizer, images: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    errors = []
    for _ in range(steps):
        result = model(images)
        error = (result.reconstruction - images).square().mean()
        optimizer.zero_grad()
        (error + 0.1 * result.aux_loss).backward()
        optimizer.step()
        model.quantizer.update()
        errors.append(float(error.detach()))
    return errors


@pytest.mark.parametrize("kind", KINDS)
def test_thirty_steps_fit_a_few_pictures(kind: str) -> None:
    model, images = make(kind), pictures()
    fit(model, images, 30)
    model.eval()
    restored = model.decode(model.encode(images))
    flat = images.mean((0, 2, 3), keepdim=True)  # the best one can do without codes
    assert (restored - images).square().mean() < 0.6 * (images - flat).square().mean()
    assert code_usage(model.encode(images), model.num_codes)[1] > 4


@pytest.mark.parametrize("kind", KINDS)
def test_forward_agrees_with_encode_then_decode(kind: str) -> None:
    model, images = make(kind), pictures()
    model(images)
    model.eval()
    codes = model.encode(images)
    assert codes.shape == (16, *model.grid)
    assert codes.dtype == torch.int64
    result = model(images)
    assert torch.equal(result.codes, codes)
    torch.testing.assert_close(result.reconstruction.clamp(0, 1), model.decode(codes), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_decodes_identically(kind: str, tmp_path: Path) -> None:
    model, images = make(kind), pictures()
    fit(model, images, 3)
    model.eval().save(tmp_path / "exact", dtype=torch.float32)
    loaded = ImageTokenizer.load(tmp_path / "exact")
    codes = model.encode(images)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), model.decode(codes))
    assert loaded.fingerprint() == model.fingerprint()

    model.save(tmp_path / "half")
    half = ImageTokenizer.load(tmp_path / "half")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    torch.testing.assert_close(half.decode(codes), model.decode(codes), atol=5e-3, rtol=0)
    assert half.fingerprint() != model.fingerprint()  # rounded weights are other weights
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("exact", "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_loaded_code_book_can_be_trained_on(tmp_path: Path) -> None:
    model, images = make(), pictures()
    fit(model, images, 3)
    model.save(tmp_path, dtype=torch.float32)
    loaded = ImageTokenizer.load(tmp_path).train()
    before = loaded.codebook_vectors()
    loaded(images)
    loaded.quantizer.update()
    moved = (loaded.codebook_vectors() - before).norm(dim=1)
    assert 0 < moved.median() < 0.2 * before.norm(dim=1).median()  # not started anew by k-means


def test_encode_never_moves_the_code_book() -> None:
    model, images = make(), pictures()
    model(images)
    assert model.training
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.encode(images)
    assert model.quantizer.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_looking_at_images_does_not_start_the_code_book() -> None:
    model = make().eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model(pictures())
    model.encode(pictures())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.train()(pictures())
    assert model.codebook_vectors().norm(dim=1).min() > 0


@pytest.mark.parametrize("kind", BOOKS)
def test_the_code_book_moves_once_a_step_by_all_its_micro_batches(kind: str) -> None:
    """Halves of a step are all of it: what is learned depends on the vectors of a step, not on how it was cut."""
    images, books = pictures(), []
    start = make(kind)
    start(1 - images)
    start.quantizer.update()
    for parts in (1, 2):
        model = make(kind)
        model.load_state_dict(start.state_dict())
        before = model.codebook_vectors()
        for part in images.chunk(parts):
            model(part)
        assert torch.equal(model.codebook_vectors(), before)
        model.quantizer.update()
        books.append(model.codebook_vectors())
        assert not torch.equal(books[-1], before)
    torch.testing.assert_close(books[0], books[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "temperature"), [("lfq", 10.0), ("bsq", 100.0)])
def test_the_loss_of_bits_is_that_of_the_library(kind: str, temperature: float) -> None:
    from vector_quantize_pytorch import LFQ as Library

    model = make(kind, entropy=0.3, commitment=0.2)
    vectors = torch.randn(4, 6, 3, 3)
    theirs = Library(
        codebook_size=64, dim=6, entropy_loss_weight=0.3, commitment_loss_weight=0.2, spherical=kind == "bsq"
    )
    wanted, codes, loss = theirs(vectors, inv_temperature=temperature)
    found = model.quantizer(vectors)
    assert torch.equal(model.codec().decode(found.digits), codes.long())
    torch.testing.assert_close(found.vectors, wanted)
    torch.testing.assert_close(found.loss, loss)


def test_training_continues_bitwise_from_state_dict_and_global_generator() -> None:
    images = pictures()
    model = make(revive_below=2.0)  # high: codes die and are drawn anew at each step
    fit(model, images, 2)
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    model(images)
    model.quantizer.update()
    twin = make(revive_below=2.0)
    twin.load_state_dict(state)
    torch.set_rng_state(random)
    twin(images)
    twin.quantizer.update()
    assert not torch.equal(twin.codebook_vectors(), state["quantizer.inner._codebook.embed"][0])
    assert torch.equal(twin.codebook_vectors(), model.codebook_vectors())


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_decodes_and_others_are_refused(kind: str) -> None:
    model = make(kind).eval()
    h, w = model.grid
    codes = torch.arange(model.num_codes).repeat(h * w)[: 8 * h * w].view(8, h, w)
    assert model.decode(codes).shape == (8, 3, 16, 16)
    for bad in (-1, model.num_codes):
        with pytest.raises(ValueError, match=rf"{bad}.*\[0, {model.num_codes}\)"):
            model.decode(torch.full((1, h, w), bad))
    with pytest.raises(ValueError, match="integers"):
        model.decode(codes.float())


@pytest.mark.parametrize("kind", ["fsq", "lfq", "bsq"])
def test_radices_are_the_digits_of_a_code(kind: str) -> None:
    model = make(kind)
    digits = torch.cartesian_prod(*map(torch.arange, model.radices))  # in code order, most significant first
    vectors = model.codebook_vectors()
    assert len(digits) == len(vectors) == model.num_codes
    for level in range(digits.shape[1]):  # each digit is one dimension, and grows with it
        steps = [vectors[digits[:, level] == value] for value in range(model.radices[level])]
        constant = torch.stack([(part == part[0]).all(0) for part in steps]).all(0)
        assert constant.sum() == 1
        heights = torch.stack([part[0] for part in steps])[:, constant].flatten()
        assert (heights.diff() > 0).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 16, 24), r"\(B, 3, 16, 16\).*\(1, 3, 16, 24\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "float.*uint8"),
        (torch.full((1, 3, 16, 16), 255.0), r"\[0, 1\].*255"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().encode(images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "pq"}, "'pq'.*vq, fsq, lfq, bsq, rvq, gvq"),
        ({"downsample": 8}, "downsample=8.*4"),
        ({"widths": [16, 20]}, "20"),
        ({"widths": [16]}, "same length"),
        ({"decoder_blocks": [1, 10**8]}, r"decoder_blocks=\[1, 100000000\]: each must lie in \[0, 256\]"),
        ({"encoder_blocks": [-1, 1]}, r"encoder_blocks=\[-1, 1\]"),
        ({"image_size": 1 << 40}, "image_size=1099511627776 must lie"),
        ({"quantizer": "fsq", "levels": [4, 4], "num_codes": 15}, "num_codes=15.*product"),
        ({"quantizer": "lfq", "num_codes": 48}, "48.*power of two"),
        ({"quantizer": "vq", "num_codes": 2**40}, f"num_codes={2**40} must lie in .*fsq, bsq or rvq"),
        ({"quantizer": "bsq", "num_codes": 2**257}, f"num_codes={2**257} must lie in"),
        ({"quantizer": "bsq", "num_codes": 2**36 - 1}, "power of two"),
        ({"quantizer": "rvq", "levels": [8, 8], "num_codes": 65}, "num_codes=65.*product"),
        ({"quantizer": "rvq", "levels": [8, 8], "num_codes": 64, "cosine": True}, "cosine"),
        ({"quantizer": "gvq", "levels": [2, 2, 2], "num_codes": 8}, "code_dim=8 must be a multiple of 3"),
    ],
)
def test_configs_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTokenizer(ImageTokenizerConfig(**{**SMALL, **changes}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("levels", {}), ("widths", "8"), ("decoder_blocks", [[], 0]), ("num_codes", [16]), ("cosine", {"a": 1})],
)
def test_values_of_another_kind_are_refused(key: str, value: object) -> None:
    values = {**ImageTokenizerConfig(**SMALL).as_dict(), key: value}
    with pytest.raises(ValueError, match=r"config\.json: "):
        ImageTokenizerConfig.from_dict(values, "config.json")


def test_code_usage_counts_codes_and_their_entropy() -> None:
    use, perplexity = code_usage(torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]]), 16)
    assert use == pytest.approx(4 / 16)
    assert perplexity == pytest.approx(4.0)
