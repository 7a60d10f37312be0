"""Reading text networks as others store them: by strict names and shapes, and without pickled code.

    mdlm     MDLM (arXiv 2406.07524): a folder (config.json, model.safetensors) or a file .safetensors, .ckpt, .bin, .pt
    duo      Duo (2506.10892): likewise; its noise is uniform, so a masked token is the mean over the vocabulary
    bd3lm    BD3-LM (2503.09573): a folder, whose config.json has the block size
    llada    LLaDA (2502.09992): a folder, shards allowed; token i by output i
    dream    Dream (2508.15487): a folder; token i by output i - 1, as the autoregressive model it began as
    masked   BERT, RoBERTa, ModernBERT of transformers: a folder; between [CLS] and [SEP] where they have them
    causal   Llama, Qwen2, GPT-2 of transformers: a folder; attention to both sides, token i by output i - 1

Averages of training (`ema.shadow_params`, in the order of the weights) are taken where a file of mdlm or duo has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmprime.codecs.weights import NoInit, fill_weights, load_plain
from mmprime.io import read_json

from .config import ARCHITECTURE, CAUSAL, DIT, MASKED, RetrofitConfig
from .networks import build_network, check_transformers

FORMATS = ("mdlm", "duo", "bd3lm", "llada", "dream", "masked", "causal")
_LLADA = (
    (r"^model\.transformer\.wte\.", "model.embed_tokens."),
    (r"^model\.transformer\.ln_f\.", "model.norm."),
    (r"^model\.transformer\.ff_out\.", "lm_head."),
    (r"^model\.transformer\.blocks\.", "model.layers."),
    (r"\.attn_norm\.", ".input_layernorm."),
    (r"\.ff_norm\.", ".post_attention_layernorm."),
    (r"\.([qkv]_proj)\.", r".self_attn.\1."),
    (r"\.attn_out\.", ".self_attn.o_proj."),
    (r"\.ff_proj\.", ".mlp.gate_proj."),
    (r"\.up_proj\.", ".mlp.up_proj."),
    (r"\.ff_out\.", ".mlp.down_proj."),
)
_UNREAD = re.compile(r"rotary_emb\.inv_freq$|^sampling_eps_(min|max)$|^noise\.")
_OTHER_HEADS = re.compile(r"pooler|seq_relationship|inv_freq|\.attn\.(masked_)?bias$|position_ids")


def read_format(layout: str, path: str | Path) -> tuple[RetrofitConfig, Any]:
    """The config of a retrofit, and the network with its weights in float32.

    Raises ValueError naming the file, and what is absent, unknown, of another shape, or cannot be read without running
    code.
    """
    if layout not in FORMATS:
        raise ValueError(f"no format {layout!r}; there are {', '.join(FORMATS)}")
    path = Path(path)
    try:
        if layout in ("masked", "causal"):
            return _of_transformers(layout, path)
        weights = _weights(path)
        config = _CONFIGS[layout](layout, path, weights)
        with NoInit():
            network = build_network(config)
    except (TypeError, KeyError, AttributeError, OverflowError) as error:  # of a config.json with other values
        raise ValueError(f"{path}: its config.json is none of {layout}: {error}") from error
    named = {_renamed(layout, name): value for name, value in weights.items() if not _UNREAD.search(name)}
    if config.architecture.get("tie_word_embeddings"):
        named.pop("lm_head.weight", None)
    targets = dict(network.named_parameters())  # each once, so tied ones are not asked for twice
    fill_weights(f"{path} as {layout}", targets, named)
    return config, network.eval()


def _renamed(layout: str, name: str) -> str:
    for pattern, replacement in _LLADA if layout == "llada" else ():
        name = re.sub(pattern, replacement, name)
    return name


def _weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file or folder by name, without the prefix of a Lightning module."""
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        if index := next(iter(sorted(path.glob("*.index.json"))), None):
            shards = set(map(str, read_json(index).get("weight_map", {}).values()))
            if absent := sorted(shards - {file.name for file in files}):
                raise ValueError(f"{path}: {index.name} names {absent[0]}, which is not there")
    if not files or not files[0].is_file():
        raise ValueError(f"{path}: no weights here (.safetensors, .bin; a file may also be .pt or .ckpt)")
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= _tensors(file)
    if all(name.startswith("backbone.") or _UNREAD.search(name) for name in weights):
        weights = {name.removeprefix("backbone."): value for name, value in weights.items()}
    return weights


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a safetensors file: {error}") from error
    content = load_plain(file)
    average = content.get("ema") if isinstance(content, dict) else None
    for key in ("state_dict", "model"):
        content = content[key] if isinstance(content, dict) and isinstance(content.get(key), dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file}: weights by name are needed, alone or under 'state_dict' or 'model'")
    if isinstance(average, dict) and isinstance(shadow := average.get("shadow_params"), list):
        names = [name for name in content if not _UNREAD.search(name)]
        if len(names) != len(shadow):
            raise ValueError(f"{file}: {len(shadow)} averages for {len(names)} weights")
        content = dict(content) | dict(zip(names, shadow))
    return content


def _dit(layout: str, path: Path, weights: Mapping[str, Tensor]) -> RetrofitConfig:
    """The sizes from the shapes; heads, blocks and whether it is told the time from config.json."""
    entries = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    rows, condition = weights.get("vocab_embed.embedding"), weights.get("sigma_map.mlp.2.weight")
    if rows is None or condition is None or rows.ndim != 2 or condition.ndim != 2:
        raise ValueError(f"{path} as {layout}: lacks vocab_embed.embedding or sigma_map.mlp.2.weight of its network")
    rotary = weights.get("rotary_emb.inv_freq")
    heads = rows.shape[1] // (2 * len(rotary)) if rotary is not None else entries.get("n_heads")
    if not heads:
        raise ValueError(
            f"{path} as {layout}: neither rotary_emb.inv_freq nor n_heads of a config.json tells its heads"
        )
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    block_size = int(entries.get("block_size", 0)) if layout == "bd3lm" else 0
    if layout == "bd3lm" and block_size < 1:
        raise ValueError(f"{path} as bd3lm: a config.json with block_size is needed beside the weights")
    for key, value in (("causal", False), ("adaln", True)):
        if entries.get(key, value) != value:
            raise ValueError(f"{path} as {layout}: {key}={entries[key]} is not read, {key}={value} is")
    architecture = {
        "vocab_size": rows.shape[0], "width": rows.shape[1], "depth": depth, "heads": int(heads),
        "condition": condition.shape[0], "block_size": block_size,
        "timed": bool(entries.get("time_conditioning", layout == "duo")),
    }  # fmt: skip
    return RetrofitConfig(DIT, architecture, None if layout == "duo" else rows.shape[0] - 1)


def _llada(layout: str, path: Path, weights: Mapping[str, Tensor]) -> RetrofitConfig:
    entries = _entries(path, layout, "d_model")
    fixed = {
        "block_type": "llama", "activation_type": "silu", "include_bias": False, "include_qkv_bias": False,
        "layer_norm_type": "rms", "rope": True, "scale_logits": False, "input_emb_norm": False, "alibi": False,
        "attention_layer_norm": False,
    }  # fmt: skip
    for key, value in fixed.items():
        if entries.get(key) not in (value, None):
            raise ValueError(f"{path} as llada: {key}={entries[key]} is not read, {key}={value} is")
    architecture = {
        "vocab_size": entries.get("embedding_size") or entries["vocab_size"], "hidden_size": entries["d_model"],
        "intermediate_size": entries["mlp_hidden_size"], "num_hidden_layers": entries["n_layers"],
        "num_attention_heads": entries["n_heads"],
        "num_key_value_heads": entries.get("n_kv_heads") or entries["n_heads"],
        "rms_norm_eps": entries.get("rms_norm_eps", 1e-5), "hidden_act": "silu",
        "max_position_embeddings": entries.get("max_sequence_length", 4096),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(entries.get("rope_theta", 10_000))},
        "tie_word_embeddings": bool(entries.get("weight_tying", False)),
    }  # fmt: skip
    return RetrofitConfig("llama", architecture, _mask_id(path, entries))


def _dream(layout: str, path: Path, weights: Mapping[str, Tensor]) -> RetrofitConfig:
    entries = _entries(path, layout, "hidden_size")
    if entries.get("model_type", "dream").lower() not in ("dream", "qwen2"):
        raise ValueError(f"{path} as dream: its config.json says model_type={entries['model_type']}")
    architecture = {key: entries[key] for key in ARCHITECTURE["qwen2"] if entries.get(key) is not None}
    theta = float(entries.get("rope_theta", 10_000))
    architecture.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": theta})
    for unused in ("use_sliding_window", "sliding_window", "layer_types"):
        architecture.pop(unused, None)
    return RetrofitConfig("qwen2", architecture, _mask_id(path, entries), shift=True)


_CONFIGS = {"mdlm": _dit, "duo": _dit, "bd3lm": _dit, "llada": _llada, "dream": _dream}


def _entries(path: Path, layout: str, key: str) -> dict[str, Any]:
    entries = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if key not in entries:
        raise ValueError(f"{path} as {layout}: a folder with its config.json ({key}) is needed")
    return entries


def _mask_id(path: Path, entries: Mapping[str, Any]) -> int:
    if not isinstance(mask := entries.get("mask_token_id"), int):
        raise ValueError(f"{path}: its config.json has no mask_token_id")
    return mask


def _of_transformers(layout: str, path: Path) -> tuple[RetrofitConfig, Any]:
    families = CAUSAL if layout == "causal" else MASKED
    kind = _entries(path, layout, "model_type")["model_type"]
    if kind not in families:
        raise ValueError(f"{path} as {layout}: its model_type is {kind}; there are {', '.join(families)}")
    check_transformers()
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    auto = AutoModelForCausalLM if layout == "causal" else AutoModelForMaskedLM
    try:
        network, report = auto.from_pretrained(
            path, local_files_only=True, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} as {layout}: {' '.join(str(error).split())[:300]}") from error
    odd = [f"lacks {name}" for name in sorted(report["missing_keys"])]
    odd += [f"has unknown {name}" for name in sorted(report["unexpected_keys"]) if not _OTHER_HEADS.search(name)]
    if odd:
        raise ValueError(f"{path} as {layout}: {'; '.join(odd[:3])}" + f" (and {len(odd) - 3} more)" * (len(odd) > 3))
    values = network.config.to_dict()
    architecture = {key: values[key] for key in ARCHITECTURE[kind] if values.get(key) is not None}
    return RetrofitConfig(kind, architecture, shift=layout == "causal"), network.eval()
