"""Tokenizers as others store them: names and shapes of the published layouts, the same codes and pixels, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from mmprime.cli import prepare
from mmprime.tokenizers import load_image_tokenizer
from mmprime.tokenizers.layout_names import foreign_name
from mmprime.tokenizers.layouts import _LLAMAGEN, read_layout
from mmprime.tokenizers.vq_autoencoder import VQAutoencoder, VQAutoencoderConfig, empty

SIDE = 32
AMUSED = VQAutoencoderConfig(512, (128, 256, 256, 512, 768), 2, 64, 8192, 64)
TINY = {"widths": (32, 64), "blocks": 1, "latent": 8, "num_codes": 24, "code_dim": 8}
JSON = {
    "_class_name": "VQModel", "block_out_channels": [32, 64], "layers_per_block": 1, "latent_channels": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "in_channels": 3,
    "num_vq_embeddings": 24, "norm_num_groups": 32, "mid_block_add_attention": True, "out_channels": 3,
    "act_fn": "silu", "vq_embed_dim": None, "lookup_from_codebook": True,
}  # fmt: skip


def generated(layout: str, config: VQAutoencoderConfig) -> dict[str, Tensor]:
    """Random weights under the layout's names; LlamaGen's matrices of attention are 1×1 convolutions."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in empty(config).state_dict().items():
        shape = value.shape
        wide = math.prod(shape[1:]) if len(shape) > 1 else 1
        drawn = torch.randn(shape, generator=generator) / math.sqrt(wide)
        drawn = 1 + 0.1 * drawn if "norm" in name and name.endswith("weight") else drawn
        drawn = drawn[..., None, None] if layout == "llamagen" and "attention" in name and len(shape) == 2 else drawn
        weights[foreign_name(layout, name, len(config.widths))] = drawn
    return weights


def pictures() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def vqmodel(tmp_path: Path) -> Path:
    folder = tmp_path / "vqmodel"
    folder.mkdir()
    config = VQAutoencoderConfig(SIDE, **TINY, attention=(True, False))
    save_file(generated("vqmodel", config), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(JSON))
    return folder


@pytest.fixture
def llamagen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(_LLAMAGEN, "16", (32, 64))
    monkeypatch.delitem(_LLAMAGEN, "8")
    config = VQAutoencoderConfig(SIDE, (32, 64), 2, 256, 24, 8, (True, True), True, (-1, 1))
    weights = generated("llamagen", config)
    torch.save({"model": {**weights, "quantize.codebook_used": torch.zeros(65536)}}, tmp_path / "vq.pt")
    return tmp_path / "vq.pt"


@pytest.mark.parametrize(("name", "parameters"), [("16", 71_883_403), ("8", 70_109_835)])
def test_llamagen_has_the_published_number_of_weights(name: str, parameters: int) -> None:
    model = empty(VQAutoencoderConfig(256, _LLAMAGEN[name], 2, 256, 16384, 8, (True, True), True, (-1, 1)))
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    names = {foreign_name("llamagen", each, 5) for each in model.state_dict()}
    last = len(_LLAMAGEN[name]) - 1
    for known in (
        f"encoder.conv_blocks.{last}.attn.1.proj_out.weight", "encoder.conv_blocks.0.downsample.conv.bias",
        "decoder.conv_blocks.0.attn.2.q.weight", "decoder.conv_blocks.0.upsample.conv.weight",
        "encoder.mid.1.norm.bias", "encoder.mid.2.conv2.weight", "decoder.conv_blocks.1.res.0.nin_shortcut.weight",
        "quantize.embedding.weight", "encoder.norm_out.weight", "post_quant_conv.bias",
    ):  # fmt: skip
        assert known in names


def test_amused_has_the_published_number_of_weights() -> None:
    model = empty(AMUSED)
    assert sum(weight.numel() for weight in model.parameters()) == 146_244_675
    names = {foreign_name("vqmodel", each, 5) for each in model.state_dict()}
    for known in (
        "encoder.down_blocks.3.resnets.0.conv_shortcut.weight", "encoder.down_blocks.0.downsamplers.0.conv.weight",
        "decoder.up_blocks.0.upsamplers.0.conv.bias", "decoder.mid_block.resnets.1.conv2.weight",
        "encoder.conv_norm_out.bias", "quantize.embedding.weight", "quant_conv.weight",
    ):  # fmt: skip
        assert known in names


def test_a_vqmodel_gives_the_codes_and_pixels_of_diffusers(vqmodel: Path) -> None:
    """Needs diffusers."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.VQModel.from_pretrained(vqmodel).eval()
    ours = read_layout("vqmodel", vqmodel, SIDE)
    images = pictures()
    with torch.no_grad():
        latents = theirs.encode(images).latents
        codes = theirs.quantize(latents)[2][2].view(2, 16, 16)
        decoded = theirs.decode(codes, force_not_quantize=True, shape=(2, 16, 16, 8)).sample
    assert torch.equal(ours.encode(images), codes)
    assert len(codes.unique()) > 2
    assert torch.allclose(ours._images(codes[..., None]), decoded, atol=1e-5)


def residual(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    def conv(key: str, value: Tensor, padding: int) -> Tensor:
        return F.conv2d(value, w[f"{name}.{key}.weight"], w[f"{name}.{key}.bias"], padding=padding)

    def norm(key: str, value: Tensor) -> Tensor:
        value = F.group_norm(value, 32, w[f"{name}.{key}.weight"], w[f"{name}.{key}.bias"], 1e-6)
        return value * value.sigmoid()

    h = conv("conv2", norm("norm2", conv("conv1", norm("norm1", x), 1)), 1)
    return h + (conv("nin_shortcut", x, 0) if f"{name}.nin_shortcut.weight" in w else x)


def attended(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    h = F.group_norm(x, 32, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"], 1e-6)
    q, k, v = (F.conv2d(h, w[f"{name}.{key}.weight"], w[f"{name}.{key}.bias"]).flatten(2) for key in "qkv")
    share = (torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(-1)
    mixed = torch.einsum("bij,bcj->bci", share, v).view_as(x)
    return x + F.conv2d(mixed, w[f"{name}.proj_out.weight"], w[f"{name}.proj_out.bias"])


def test_llamagen_gives_the_codes_and_pixels_of_its_formulas(llamagen: Path) -> None:
    """In double precision, so that the order of sums does not matter."""
    w = {name: value.double() for name, value in torch.load(llamagen, weights_only=True)["model"].items()}

    def conv(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    def middle(side: str, x: Tensor) -> Tensor:
        return residual(w, f"{side}.mid.2", attended(w, f"{side}.mid.1", residual(w, f"{side}.mid.0", x)))

    def out(side: str, x: Tensor) -> Tensor:
        x = F.group_norm(x, 32, w[f"{side}.norm_out.weight"], w[f"{side}.norm_out.bias"], 1e-6)
        return conv(f"{side}.conv_out", x * x.sigmoid())

    images = pictures().double()
    x = conv("encoder.conv_in", images * 2 - 1)
    for n in range(2):
        x = residual(w, f"encoder.conv_blocks.0.res.{n}", x)
    down = "encoder.conv_blocks.0.downsample.conv"
    x = F.conv2d(F.pad(x, (0, 1, 0, 1)), w[f"{down}.weight"], w[f"{down}.bias"], stride=2)
    for n in range(2):
        x = attended(w, f"encoder.conv_blocks.1.attn.{n}", residual(w, f"encoder.conv_blocks.1.res.{n}", x))
    z = F.normalize(conv("quant_conv", out("encoder", middle("encoder", x)), 0), dim=1)
    book = F.normalize(w["quantize.embedding.weight"], dim=-1)
    codes = torch.einsum("bdhw,cd->bhwc", z, book).argmax(-1)
    ours = read_layout("llamagen", llamagen, SIDE).double()
    assert torch.equal(ours.encode(images), codes)
    assert len(codes.unique()) > 2
    x = middle("decoder", conv("decoder.conv_in", conv("post_quant_conv", book[codes].permute(0, 3, 1, 2), 0)))
    for n in range(3):
        x = attended(w, f"decoder.conv_blocks.0.attn.{n}", residual(w, f"decoder.conv_blocks.0.res.{n}", x))
    x = conv("decoder.conv_blocks.0.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    for n in range(3):
        x = residual(w, f"decoder.conv_blocks.1.res.{n}", x)
    assert torch.allclose(ours._images(codes[..., None]), (out("decoder", x) + 1) / 2, atol=1e-9)


def test_the_command_writes_a_tokenizer_that_is_read_as_any(vqmodel: Path, llamagen: Path, tmp_path: Path) -> None:
    for layout, source in (("vqmodel", vqmodel), ("llamagen", llamagen)):
        out = tmp_path / f"out_{layout}"
        words = ["tokenizer", "--from", layout, str(source), "--image-size", str(SIDE), "--out", str(out)]
        assert prepare.main(words) == 0
        ours, again = read_layout(layout, source, SIDE), load_image_tokenizer(out)
        assert isinstance(again, VQAutoencoder)
        assert again.fingerprint() == ours.fingerprint()
        assert torch.equal(again.encode(pictures()), ours.encode(pictures()))
        half = ours.encode_digits(pictures())
        half[:, :8] = -1
        assert again.decode_digits(half).shape == (2, 3, SIDE, SIDE)
    assert read_layout("vqmodel", vqmodel, SIDE, black=-1).config.input_range == (-1, 1)


def test_what_is_of_another_layout_is_told(vqmodel: Path, llamagen: Path, tmp_path: Path) -> None:
    file = vqmodel / "diffusion_pytorch_model.safetensors"
    weights = generated("vqmodel", VQAutoencoderConfig(SIDE, **TINY, attention=(True, False)))
    for name, value, line in (
        ("more", torch.zeros(1), "has unknown more"),
        ("quant_conv.bias", None, "lacks quant_conv.bias"),
        ("quant_conv.bias", torch.zeros(3), r"quant_conv.bias is \(3,\), the layout has \(8,\)"),
        ("quant_conv.bias", torch.full((8,), torch.nan), "quant_conv.bias holds no finite floats"),
    ):
        changed = {**weights, name: value}
        save_file({key: each for key, each in changed.items() if each is not None}, file)
        with pytest.raises(ValueError, match=line):
            read_layout("vqmodel", vqmodel, SIDE)
    (vqmodel / "config.json").write_text(json.dumps({**JSON, "norm_type": "spatial"}))
    with pytest.raises(ValueError, match="norm_type=spatial is not read; VQModel with group is"):
        read_layout("vqmodel", vqmodel, SIDE)
    with pytest.raises(ValueError, match="no tokenizer of LlamaGen"):
        read_layout("llamagen", file, SIDE)
    torch.save({"model": {"a": Path("x")}}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil.pt holds more than weights, or is damaged, and is not run"):
        read_layout("llamagen", tmp_path / "evil.pt", SIDE)
    with pytest.raises(ValueError, match="no layout 'vqgan'; there are vqmodel, llamagen, taming"):
        read_layout("vqgan", llamagen)
    with pytest.raises(ValueError, match="image_size=33 is no multiple of 2"):
        read_layout("llamagen", llamagen, 33)
