"""Layouts of published tokenizers: names, shapes, codes and pixels as by the code that trained them.

layouts.json holds codes (2, h, w) of `pictures()` and every fourth pixel of the first one's reconstruction, from the
public modules of taming-transformers 3ba01b2, open-muse 64e1afe, SEED-Voken b9a17ea, maskbit 5ea3d73 and
Cosmos-Tokenizer 3584ae7, made with the widths of `layout_world.TINY` and the weights of `layout_world.drawn`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from layout_world import SIDE, TINY, drawn, pictures, shapes, write
from safetensors.torch import save_file

from mmprime.cli import prepare
from mmprime.tokenizers import load_image_tokenizer
from mmprime.tokenizers.layouts import read_layout
from mmprime.tokenizers.vq_autoencoder import VQAutoencoderConfig, empty
from mmprime.tokenizers.vq_net import from_haar, to_haar

GOLDEN = json.loads((Path(__file__).parent / "layouts.json").read_text())
F16, F8, COSMOS = (128, 128, 256, 256, 512), (128, 256, 256, 512), (256, 512, 512)
BITS = {"num_codes": 2**18, "code_dim": 18, "latent": 18, "quantizer": "lfq", "levels": (2,) * 18}
FSQ = {"quantizer": "fsq", "levels": (8, 8, 8, 5, 5, 5), "family": "cosmos", "stem": 128}
PUBLISHED = {
    "taming f16": (VQAutoencoderConfig(256, F16, 2, 256, 1024, 256, (True, True)), 16, 72_141_699),
    "taming f8": (VQAutoencoderConfig(256, F8, 2, 4, 16384, 4, (True, True)), 8, None),
    "maskgit": (VQAutoencoderConfig(256, F16, 2, 256, 1024, 256, family="maskgit"), 16, 54_515_587),
    "magvit2": (VQAutoencoderConfig(256, F16, 4, family="magvit2", **BITS), 16, 115_127_829),
    "ibq": (VQAutoencoderConfig(256, F16, 4, 256, 16384, 256, (True, True), quantizer="dot"), 16, 110_982_019),
    "maskbit": (VQAutoencoderConfig(256, F16, 2, family="maskbit", **BITS), 16, None),
    "cosmos DI16x16": (VQAutoencoderConfig(256, COSMOS, 2, 256, 64000, 6, (True, False), **FSQ), 16, 83_723_958),
    "cosmos DI8x8": (
        VQAutoencoderConfig(256, COSMOS, 2, 256, 64000, 6, (True, False), **FSQ, halvings=1), 8, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name: str) -> None:
    config, pixels, parameters = PUBLISHED[name]
    model = empty(config)
    assert config.downsample == pixels
    if parameters:
        assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize("layout", TINY)
def test_codes_and_pixels_are_those_of_the_code_that_trained_them(layout: str, tmp_path: Path) -> None:
    ours = read_layout(layout, write(layout, tmp_path / "a.safetensors"), SIDE)
    assert ours.config == TINY[layout]
    codes = ours.encode(pictures())
    assert codes.flatten().tolist() == GOLDEN[layout]["codes"]
    assert len(codes.unique()) >= 8
    decoded = ours._images(ours.encode_digits(pictures()))[0, :, ::4, ::4]
    assert torch.allclose(decoded.flatten(), torch.tensor(GOLDEN[layout]["pixels"]), atol=2e-5)


@pytest.mark.parametrize("layout", TINY)
def test_the_command_writes_what_is_read_as_any(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(layout, tmp_path / "a.safetensors"), tmp_path / "out"
    assert prepare.main(["tokenizer", "--from", layout, str(file), "--image-size", "32", "--out", str(out)]) == 0
    again = load_image_tokenizer(out)
    assert f"{again.num_codes:,} codes" in capsys.readouterr().out
    ours = read_layout(layout, file, 32)
    assert again.fingerprint() == ours.fingerprint()
    larger = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    digits = ours.encode_digits(larger)
    assert torch.equal(again.encode_digits(larger), digits)
    assert torch.allclose(ours.decode(ours.encode(larger)), again.decode_digits(digits), atol=1e-5)
    digits[:, :2] = -1
    assert bool(again.decode_digits(digits).isfinite().all())


def test_the_lowest_bit_is_the_first_channel(tmp_path: Path) -> None:
    """Of a masked token the mean: a masked bit is zero, halfway between its two vectors."""
    ours = read_layout("magvit2", write("magvit2", tmp_path / "a.safetensors"), SIDE)
    seen = []
    ours.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ours.decode(torch.full((1, 8, 8), 0b000101))
    ours.decode_digits(torch.tensor([0, 0, 0, 1, -1, 1]).expand(1, 8, 8, 6))
    assert seen[0][0, :, 0, 0].tolist() == [1, -1, 1, -1, -1, -1]
    assert seen[1][0, :, 0, 0].tolist() == [1, 0, 1, -1, -1, -1]


def test_haar_patches_are_undone() -> None:
    assert torch.allclose(from_haar(to_haar(pictures(), 2), 2), pictures(), atol=1e-6)
    assert to_haar(torch.ones(1, 3, 4, 4), 2).flatten().tolist() == [1.0] * 3 + [0.0] * 45


def test_averages_are_read_and_training_is_left_out(tmp_path: Path) -> None:
    names = shapes("ibq", TINY["ibq"])
    raw, average = drawn(names), {name: value + 0.01 for name, value in drawn(names).items()}
    under = {f"model_ema.{name.replace('.', '')}": value for name, value in average.items()}
    extra = {"loss.discriminator.main.0.weight": torch.zeros(3), "model_ema.decay": torch.tensor(0.999)}
    save_file({**raw, **under, **extra}, tmp_path / "both.safetensors")
    save_file(average, tmp_path / "plain.safetensors")
    both, plain = (read_layout("ibq", tmp_path / f"{name}.safetensors", SIDE) for name in ("both", "plain"))
    assert both.fingerprint() == plain.fingerprint()
    del under["model_ema.quant_convbias"]
    save_file({**raw, **under}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"has some averages of training and lacks model_ema\.quant_convbias"):
        read_layout("ibq", tmp_path / "part.safetensors", SIDE)


@pytest.mark.parametrize("layout", TINY)
def test_no_layout_reads_the_file_of_another(layout: str, tmp_path: Path) -> None:
    file = write(layout, tmp_path / "a.safetensors")
    for other in set(TINY) - {layout}:
        with pytest.raises(ValueError, match=r"no tokenizer of|lacks|has unknown|levels=|latent=") as refused:
            read_layout(other, file, SIDE)
        assert str(file) in str(refused.value)


def test_what_cannot_be_read_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(
        ValueError, match=r"taming is read from \.safetensors; docs/data\.md says how to convert a \.ck"
    ):
        read_layout("taming", tmp_path / "last.ckpt")
    order = torch.tensor([32, 16, 8, 4, 2, 1], dtype=torch.int32)
    file = write("maskbit", tmp_path / "a.safetensors", **{"quantize.bits_to_indices": order.flip(0)})
    assert read_layout("maskbit", file, SIDE).num_codes == 64
    with pytest.raises(ValueError, match=r"bits_to_indices=\[32, 16, .*the first channel is read as the lowest bit"):
        read_layout("maskbit", write("maskbit", file, **{"quantize.bits_to_indices": order}), SIDE)
    with pytest.raises(ValueError, match="image_size=2 is one code, and magvit2 needs the spread of several"):
        read_layout("magvit2", write("magvit2", file), 2)
