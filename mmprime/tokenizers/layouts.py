"""Reading image tokenizers as others store them: by strict names and shapes, and without pickled code.

    vqmodel    `VQModel` of diffusers (amused): a folder with config.json and diffusion_pytorch_model.safetensors
    llamagen   VQ-16 and VQ-8 of LlamaGen (arXiv 2406.06525): .safetensors, or .pt whose key "model" holds the weights
    taming     VQGAN f16 and f8 of taming-transformers and latent diffusion (2012.09841), two blocks a level
    maskgit    MaskGIT's VQGAN (2202.04200) as in open-muse
    magvit2    Open-MAGVIT2 (2409.04410), bits
    ibq        IBQ (2412.02692), four blocks a level
    maskbit    MaskBit (2409.16211), bits
    cosmos     Cosmos DI (2501.03575), levels 8, 8, 8, 5, 5, 5

All but the first two are .safetensors files of the names they were trained with. Averages of training (`model_ema.`
and the name without dots) are read where a file has them; what belongs to training or has no parameters is left out.
Widths, codes and depth come from the shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmprime.codecs.weights import fill_weights, load_plain
from mmprime.io import read_json

from .layout_names import LAYOUTS, foreign_name, is_left_out
from .vq_autoencoder import VQAutoencoder, VQAutoencoderConfig, empty

Reader = Callable[[Path, Mapping[str, Tensor]], dict[str, Any]]
_AVERAGES = "model_ema."
_COSMOS = (8, 8, 8, 5, 5, 5)
_LLAMAGEN = {"16": (128, 128, 256, 256, 512), "8": (128, 256, 256, 512)}


def read_layout(layout: str, path: str | Path, image_size: int = 256, black: float | None = None) -> VQAutoencoder:
    """The tokenizer in a file or folder of a layout, for pictures of `image_size`².

    black: 0 or -1 where black is not that of the layout. Raises ValueError naming the file, and what is
    absent, unknown, of another shape, or cannot be read without running code.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    path = Path(path)
    file = path / "diffusion_pytorch_model.safetensors" if layout == "vqmodel" and path.is_dir() else path
    weights = _weights(file, layout)
    settings = _CONFIGS[layout](file, weights)
    if black is not None:
        settings["input_range"] = (float(black), 1.0)
    try:
        config = VQAutoencoderConfig(image_size=image_size, **settings)
    except ValueError as error:
        raise ValueError(f"{file} as {layout}: {error}") from error
    tokenizer = empty(config).to_empty(device="cpu")
    named = tokenizer.state_dict().items()
    expected = {foreign_name(layout, name, len(config.widths)): value for name, value in named}
    stored = {name: value for name, value in weights.items() if not is_left_out(layout, name)}
    if any(name.startswith(_AVERAGES) for name in weights):
        if absent := [name for name in map(_averaged, expected) if name not in weights]:
            raise ValueError(f"{file}: has some averages of training and lacks {', '.join(absent[:3])}")
        stored |= {name: weights[_averaged(name)] for name in expected}
    fill_weights(str(file), expected, stored)
    return tokenizer.eval()


def _averaged(name: str) -> str:
    return _AVERAGES + name.replace(".", "")


def _weights(file: Path, layout: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a safetensors file: {error}") from error
    if layout not in ("vqmodel", "llamagen"):
        raise ValueError(
            f"{file}: {layout} is read from .safetensors; docs/data.md says how to convert a {file.suffix}"
        )
    content = load_plain(file)
    for key in ("model", "state_dict"):
        content = content[key] if isinstance(content, dict) and isinstance(content.get(key), dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file}: weights by name are needed, alone or under 'model'")
    return content


def _vqmodel(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    config = read_json(file.parent / "config.json") if (file.parent / "config.json").is_file() else {}
    if config.get("_class_name") != "VQModel":
        raise ValueError(f"{file.parent}: a config.json of diffusers' VQModel is needed beside the weights")
    try:
        widths, latent = tuple(config["block_out_channels"]), config["latent_channels"]
        fixed = {
            "down_block_types": ["DownEncoderBlock2D"] * len(widths),
            "up_block_types": ["UpDecoderBlock2D"] * len(widths),
            "norm_type": "group", "act_fn": "silu", "norm_num_groups": 32, "in_channels": 3, "out_channels": 3,
        }  # fmt: skip
        for key, value in fixed.items():
            if config.get(key, value) != value:
                raise ValueError(f"{file.parent}: {key}={config[key]} is not read; VQModel with {value} is")
        return {
            "widths": widths, "blocks": config["layers_per_block"], "latent": latent,
            "num_codes": config["num_vq_embeddings"], "code_dim": config.get("vq_embed_dim") or latent,
            "attention": (config.get("mid_block_add_attention", True), False), "input_range": (0.0, 1.0),
        }  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file.parent}/config.json: no config of a VQModel ({error})") from error


def _llamagen(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    book = weights.get("quantize.embedding.weight")
    if book is None or book.ndim != 2 or "encoder.conv_blocks.0.res.0.conv1.weight" not in weights:
        raise ValueError(f"{file}: no tokenizer of LlamaGen (quantize.embedding.weight, encoder.conv_blocks)")
    levels = len({name.split(".")[2] for name in weights if name.startswith("encoder.conv_blocks.")})
    widths = next((widths for widths in _LLAMAGEN.values() if len(widths) == levels), _LLAMAGEN["16"])
    return {
        "widths": widths, "blocks": 2, "latent": 256, "num_codes": book.shape[0], "code_dim": book.shape[1],
        "attention": (True, True), "normalise": True, "input_range": (-1.0, 1.0),
    }  # fmt: skip


def _measured(file: Path, layout: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Widths and channels from the shapes. Raises ValueError where the outline of the layout is not there."""
    part = "res_blocks" if layout == "maskbit" else "block"
    matches = [re.fullmatch(rf"encoder\.down\.(\d+)\.{part}\.0\.conv1\.weight", name) for name in weights]
    levels = sorted(int(match[1]) for match in matches if match)
    ends = [weights.get(name) for name in ("encoder.conv_in.weight", "encoder.conv_out.weight")]
    if not levels or levels != list(range(len(levels))) or any(end is None or end.ndim != 4 for end in ends):
        raise ValueError(
            f"{file}: no tokenizer of {layout} (encoder.conv_in, encoder.down.0.{part}.0, encoder.conv_out)"
        )
    stem, latent = (end.shape[0] for end in ends if end is not None)
    widths = tuple(weights[f"encoder.down.{level}.{part}.0.conv1.weight"].shape[0] for level in levels)
    return {"widths": widths, "latent": latent, "stem": stem if stem != widths[0] else 0}


def _book(file: Path, layout: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    book = weights.get("quantize.embedding.weight")
    if book is None or book.ndim != 2:
        raise ValueError(f"{file}: no tokenizer of {layout} (quantize.embedding.weight)")
    return {"num_codes": book.shape[0], "code_dim": book.shape[1]}


def _bits(count: int) -> dict[str, Any]:
    return {"num_codes": 2**count, "code_dim": count, "quantizer": "lfq", "levels": (2,) * count}


def _vqgan(layout: str, blocks: int, quantizer: str) -> Reader:
    def read(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        sizes = {**_measured(file, layout, weights), **_book(file, layout, weights)}
        attention = {"attention": (True, True), "input_range": (-1.0, 1.0)}
        return {**sizes, **attention, "blocks": blocks, "quantizer": quantizer}

    return read


def _maskgit(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**_measured(file, "maskgit", weights), **_book(file, "maskgit", weights), "blocks": 2, "family": "maskgit"}


def _magvit2(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes = _measured(file, "magvit2", weights)
    return {**sizes, **_bits(sizes["latent"]), "blocks": 4, "family": "magvit2", "input_range": (-1.0, 1.0)}


def _maskbit(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes = _measured(file, "maskbit", weights)
    order = weights.get("quantize.bits_to_indices")
    if order is not None and order.tolist() != [2**bit for bit in range(sizes["latent"])]:
        raise ValueError(
            f"{file}: quantize.bits_to_indices={order.tolist()}; the first channel is read as the lowest bit"
        )
    return {**sizes, **_bits(sizes["latent"]), "blocks": 2, "family": "maskbit"}


def _cosmos(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    halvings = sum(name.startswith("encoder.down.") and name.endswith(".downsample.conv.weight") for name in weights)
    sizes = {**_measured(file, "cosmos", weights), "num_codes": math.prod(_COSMOS), "code_dim": len(_COSMOS)}
    quantizer = {"quantizer": "fsq", "levels": _COSMOS, "family": "cosmos", "halvings": halvings}
    return {**sizes, **quantizer, "blocks": 2, "attention": (True, False), "input_range": (-1.0, 1.0)}


_CONFIGS: dict[str, Reader] = {
    "vqmodel": _vqmodel, "llamagen": _llamagen, "taming": _vqgan("taming", 2, "vq"), "maskgit": _maskgit,
    "magvit2": _magvit2, "ibq": _vqgan("ibq", 4, "dot"), "maskbit": _maskbit, "cosmos": _cosmos,
}  # fmt: skip
