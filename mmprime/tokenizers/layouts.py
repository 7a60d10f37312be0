"""Reading image tokenizers as others store them: by strict names and shapes, and without pickled code.

    vqmodel    `VQModel` of diffusers (amused: 8,192 codes, pictures in [0, 1]): a folder with config.json and
               diffusion_pytorch_model.safetensors
    llamagen   VQ-16 and VQ-8 of LlamaGen (arXiv 2406.06525; 16,384 codes on the unit sphere, pictures in [-1, 1]): a
               file .pt whose key "model" holds the weights, or .safetensors of the same names

Decoder levels are the coarsest first in both. LlamaGen's buffer of used codes is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmprime.io import read_json

from .vq_autoencoder import VQAutoencoder, VQAutoencoderConfig, empty

_RULES = {
    "vqmodel": {
        r"codebook": "quantize.embedding.weight",
        r"encoder\.levels\.": "encoder.down_blocks.",
        r"decoder\.levels\.": "decoder.up_blocks.",
        r"middle\.first": "mid_block.resnets.0",
        r"middle\.last": "mid_block.resnets.1",
        r"middle\.attention\.": "mid_block.attentions.0.",
        r"\.blocks\.": ".resnets.",
        r"\.shortcut\.": ".conv_shortcut.",
        r"(down_blocks\.\d+)\.resize\.": r"\1.downsamplers.0.conv.",
        r"(up_blocks\.\d+)\.resize\.": r"\1.upsamplers.0.conv.",
        r"norm_out": "conv_norm_out",
        r"(attentions\.0)\.norm\.": r"\1.group_norm.",
        r"(attentions\.0)\.([qkv])\.": r"\1.to_\2.",
        r"(attentions\.0)\.out\.": r"\1.to_out.0.",
    },
    "llamagen": {
        r"codebook": "quantize.embedding.weight",
        r"coder\.levels\.": "coder.conv_blocks.",
        r"middle\.first": "mid.0",
        r"middle\.attention": "mid.1",
        r"middle\.last": "mid.2",
        r"\.blocks\.": ".res.",
        r"\.attention\.": ".attn.",
        r"((?:attn\.\d+|mid\.1))\.out\.": r"\1.proj_out.",
        r"\.shortcut\.": ".nin_shortcut.",
        r"(encoder\.conv_blocks\.\d+)\.resize\.": r"\1.downsample.conv.",
        r"(decoder\.conv_blocks\.\d+)\.resize\.": r"\1.upsample.conv.",
    },
}
_IGNORED = {"llamagen": ("quantize.codebook_used",)}
_LLAMAGEN = {"16": (128, 128, 256, 256, 512), "8": (128, 256, 256, 512)}


def read_layout(layout: str, path: str | Path, image_size: int = 256, black: float | None = None) -> VQAutoencoder:
    """The tokenizer in a file or folder of a layout, for pictures of `image_size`².

    black: 0 or -1 where black is not that of the layout. Raises ValueError naming the file, and what is
    absent, unknown, of another shape, or cannot be read without running code.
    """
    if layout not in _RULES:
        raise ValueError(f"no layout {layout!r}; there are {', '.join(_RULES)}")
    path = Path(path)
    file = path / "diffusion_pytorch_model.safetensors" if layout == "vqmodel" and path.is_dir() else path
    weights = _weights(file)
    settings = _CONFIGS[layout](file, weights)
    if black is not None:
        settings["input_range"] = (float(black), 1.0)
    tokenizer = empty(VQAutoencoderConfig(image_size=image_size, **settings)).to_empty(device="cpu")
    expected = {foreign_name(layout, name): value for name, value in tokenizer.state_dict().items()}
    stored = {name: value for name, value in weights.items() if name not in _IGNORED.get(layout, ())}
    _check_names(file, expected, stored)
    with torch.no_grad():
        for name, target in expected.items():
            target.copy_(stored[name].float().view_as(target))
    return tokenizer.eval()


def foreign_name(layout: str, name: str) -> str:
    """What a layout calls one of our weights."""
    for pattern, replacement in _RULES[layout].items():
        name = re.sub(pattern, replacement, name)
    return name


def _weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a safetensors file: {error}") from error
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip and torch, by what is wrong
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} holds more than weights, or is damaged, and is not run: {reason}") from error
    for key in ("model", "state_dict"):
        content = content[key] if isinstance(content, dict) and isinstance(content.get(key), dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file}: weights by name are needed, alone or under 'model'")
    return content


def _check_names(file: Path, expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Raises ValueError on names and shapes; a 1×1 convolution may stand for a matrix."""
    problems = [f"lacks {name}" for name in expected if name not in stored]
    problems += [f"has unknown {name}" for name in stored if name not in expected]
    for name, value in expected.items():
        shape = tuple(stored[name].shape) if name in stored else tuple(value.shape)
        if shape != tuple(value.shape) and shape != (*value.shape, 1, 1):
            problems.append(f"{name} is {shape}, the layout has {tuple(value.shape)}")
        elif name in stored and not (stored[name].is_floating_point() and bool(stored[name].isfinite().all())):
            problems.append(f"{name} holds no finite floats")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{file}: {'; '.join(problems[:3])}{more}")


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


_CONFIGS: dict[str, Callable[[Path, Mapping[str, Tensor]], dict[str, Any]]] = {
    "vqmodel": _vqmodel, "llamagen": _llamagen,
}  # fmt: skip
LAYOUTS = tuple(_RULES)
