"""Tiny text networks in the layouts of others, and what they compute, written down a second time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmprime.tokenizers import TextTokenizer

BYTES = 258  # ids of the byte tokenizer: 256 is pad, 257 the end of a text
State = dict[str, Tensor]


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def mdlm_weights(vocab: int = 259, width: int = 16, depth: int = 2, condition: int = 6) -> State:
    """By the names of MDLM, with a rotary buffer for two heads."""
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (vocab, width),
        "sigma_map.mlp.0.weight": (condition, 256),
        "sigma_map.mlp.0.bias": (condition,),
        "sigma_map.mlp.2.weight": (condition, condition),
        "sigma_map.mlp.2.bias": (condition,),
    }
    for i in range(depth):
        shapes |= {
            f"blocks.{i}.norm1.weight": (width,),
            f"blocks.{i}.attn_qkv.weight": (3 * width, width),
            f"blocks.{i}.attn_out.weight": (width, width),
            f"blocks.{i}.norm2.weight": (width,),
            f"blocks.{i}.mlp.0.weight": (4 * width, width),
            f"blocks.{i}.mlp.0.bias": (4 * width,),
            f"blocks.{i}.mlp.2.weight": (width, 4 * width),
            f"blocks.{i}.mlp.2.bias": (width,),
            f"blocks.{i}.adaLN_modulation.weight": (6 * width, condition),
            f"blocks.{i}.adaLN_modulation.bias": (6 * width,),
        }
    shapes |= {
        "output_layer.norm_final.weight": (width,),
        "output_layer.linear.weight": (vocab, width),
        "output_layer.linear.bias": (vocab,),
        "output_layer.adaLN_modulation.weight": (2 * width, condition),
        "output_layer.adaLN_modulation.bias": (2 * width,),
    }
    weights = random_weights(shapes)
    weights["rotary_emb.inv_freq"] = 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
    return weights


def mdlm_logits(w: State, x: Tensor, sigma: float, positions: list[int], allowed: Tensor | None = None) -> Tensor:
    """Embeddings (L, D) of one row -> logits (L, V), one head and one pair of tokens after another."""

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def norm(name: str, h: Tensor) -> Tensor:
        h = h - h.mean(-1, keepdim=True)
        return h / (h.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    def turned(h: Tensor) -> Tensor:
        z = torch.complex(h[:, :4], h[:, 4:])
        angle = torch.tensor(positions, dtype=torch.float32)[:, None] * w["rotary_emb.inv_freq"]
        z = z * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], 1)

    angle = [sigma * math.exp(-math.log(10_000) * k / 128) for k in range(128)]
    waves = torch.tensor([*map(math.cos, angle), *map(math.sin, angle)])
    c = torch.nn.functional.silu(linear("sigma_map.mlp.2", torch.nn.functional.silu(linear("sigma_map.mlp.0", waves))))
    depth = len({name.split(".")[1] for name in w if name.startswith("blocks.")})
    for block in (f"blocks.{i}" for i in range(depth)):
        m = linear(f"{block}.adaLN_modulation", c).view(6, -1)
        q, k, v = linear(f"{block}.attn_qkv", norm(f"{block}.norm1", x) * (1 + m[1]) + m[0]).chunk(3, -1)
        heads = []
        for part in (slice(0, 8), slice(8, 16)):
            scores = turned(q[:, part]) @ turned(k[:, part]).T / math.sqrt(8)
            scores = scores if allowed is None else scores.masked_fill(~allowed, -math.inf)
            heads.append(scores.softmax(-1) @ v[:, part])
        x = x + m[2] * linear(f"{block}.attn_out", torch.cat(heads, -1))
        h = norm(f"{block}.norm2", x) * (1 + m[4]) + m[3]
        h = torch.nn.functional.gelu(linear(f"{block}.mlp.0", h), approximate="tanh")
        x = x + m[5] * linear(f"{block}.mlp.2", h)
    shift, scale = linear("output_layer.adaLN_modulation", c).chunk(2)
    return linear("output_layer.linear", norm("output_layer.norm_final", x) * (1 + scale) + shift)


def store(folder: Path, weights: State, config: dict[str, object] | None = None) -> Path:
    """A folder with weights, a config.json and the byte tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    TextTokenizer.bytes()._inner.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
