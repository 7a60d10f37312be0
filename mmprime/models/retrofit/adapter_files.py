"""Low-rank adapters of a retrofit beside the checkpoint they belong to, in the files of peft.

    adapter_config.json        rank, scale and targets, as peft has them
    adapter_model.safetensors  A and B as base_model.model.NAME.lora_A.weight, NAME as in the network's own library;
                               beside them what is of no checkpoint: mask, digits.weight, tables of digits

    W ← W + (α / r) B A                                                                  Hu et al., arXiv 2106.09685

They are read without peft, which reads them too: `PeftModel.from_pretrained(network, DIR)`, without mask and digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmprime.codecs.weights import NoInit
from mmprime.io import read_json

from ..adapters import LINEAR, adapted_layers
from .config import CAUSAL
from .denoiser import Retrofit
from .networks import build_network

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PARTS = ("lora_A", "lora_B")
_READ: dict[str, Any] = {
    "peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False, "rank_pattern": {},
    "alpha_pattern": {},
}  # fmt: skip


def adapter_tensors(model: Retrofit) -> dict[str, Tensor]:
    """What adapter_model.safetensors has of a model with adapters, but for tables of digits."""
    names, tensors = _network_names(model), _own(model)
    for name, layer in adapted_layers(model).items():
        for part in _PARTS:
            tensors[_key(names[name], part)] = getattr(layer, part)["default"].weight
    return tensors


def write_adapter_config(folder: Path, model: Retrofit, base: str) -> None:
    """base: the name of the checkpoint. Needs peft, whose file it is."""
    from peft import LoraConfig

    names, layers = _network_names(model), adapted_layers(model)
    layer: Any = next(iter(layers.values()))
    LoraConfig(
        r=layer.r["default"],
        lora_alpha=layer.lora_alpha["default"],
        target_modules=sorted(names[name] for name in layers),
        fan_in_fan_out=layer.fan_in_fan_out,
        task_type="CAUSAL_LM" if model.config.family in CAUSAL else None,
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(folder))


def expected_tensors(model: Retrofit, names: list[str], rank: int) -> dict[str, Tensor]:
    """Shapes, on the meta device, that adapters of this rank have for the modules that occur among the names."""
    expected = {name: torch.empty(value.shape, device="meta") for name, value in _own(model).items()}
    for key, module in _targets(model).items():
        if any(_key(key, part) in names for part in _PARTS):
            matrix = module.weight.T if _transposed(module) else module.weight
            rows, columns = matrix.shape
            expected[_key(key, "lora_A")] = torch.empty(rank, columns, device="meta")
            expected[_key(key, "lora_B")] = torch.empty(rows, rank, device="meta")
    return expected


def read_rank(folder: Path) -> tuple[int, float]:
    """r and α / r. Raises ValueError on an adapter_config.json of another kind."""
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        raise ValueError(f"{file}: no such file; adapters have {ADAPTER_CONFIG} and {ADAPTER}")
    entries = read_json(file)
    for key, value in _READ.items():
        if entries.get(key, value) not in (value, None):
            raise ValueError(f"{file}: {key}={entries[key]!r} is not read, {value!r} is")
    rank, alpha = entries.get("r"), entries.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise ValueError(f"{file}: r={rank!r}, lora_alpha={alpha!r} are no rank and scale")
    return rank, alpha / rank


@torch.no_grad()
def merge_adapter(model: Retrofit, tensors: dict[str, Tensor], scale: float) -> None:
    """Add the adapters to the matrices of the model and take over what is of no checkpoint."""
    for key, module in _targets(model).items():
        if (a := tensors.get(_key(key, "lora_A"))) is not None:
            change = scale * (tensors[_key(key, "lora_B")] @ a)
            module.weight += change.T if _transposed(module) else change
    for name, value in _own(model).items():
        value.copy_(tensors[name])


def _own(model: Retrofit) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value for name, value in state.items() if name.startswith(model.ALWAYS_TRAINED)}


def _targets(model: Retrofit) -> dict[str, Any]:
    """By its name in the network, each module that may have adapters."""
    names = _network_names(model)
    return {names[name]: module for name, module in model.named_modules() if names.get(name)}


def _network_names(model: Retrofit) -> dict[str, str]:
    """By its name in a retrofit, what a matrix is called in the network of its own library."""
    with torch.device("meta"), NoInit():
        network = build_network(model.config)
        names = {id(each): name for name, each in network.named_modules() if type(each).__name__ in LINEAR}
        parts = Retrofit(model.canvas, model.config, network).named_modules()
    return {name: names[id(part)] for name, part in parts if id(part) in names and name.startswith(model.ADAPTED)}


def _key(name: str, part: str) -> str:
    return f"base_model.model.{name}.{part}.weight"


def _transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"  # GPT-2's, of transformers
