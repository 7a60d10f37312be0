"""What of a pretrained model is trained: all weights, the heads, or low-rank adapters beside frozen matrices.

    W x + (α / r) B A x        A (r, n) random, B (m, r) zero at first         Hu et al., arXiv 2106.09685

W is each linear map of the trunk and heads. The adapters are those of peft; a model with them computes, at first, the
bits of the one without.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

from torch import nn

from .network import Network

TRAINED = ("all", "head", "lora")
LINEAR = "Linear", "Conv1D"  # kinds of modules that get adapters; the latter is GPT-2's, of transformers


def choose_trained(model: Network, trained: str, rank: int = 8, alpha: float = 16.0) -> None:
    """Freeze in place what is not trained; "head": all but the heads, "lora": all but new adapters of this rank;
    neither freezes what a model says is always trained.

    Raises ValueError where peft is not installed.
    """
    if trained == "head":
        model.requires_grad_(False)
        model.heads.requires_grad_(True)
    elif trained == "lora":
        _add_adapters(model, rank, alpha)
    for name, weight in model.named_parameters():
        if model.ALWAYS_TRAINED and name.startswith(model.ALWAYS_TRAINED):
            weight.requires_grad_(True)


def _add_adapters(model: Network, rank: int, alpha: float) -> None:
    if find_spec("peft") is None:
        raise ValueError("train=lora needs peft: pip install 'mmprime[lora]', or train all or head")
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in model.named_modules() if type(module).__name__ in LINEAR]
    targets = [name for name in linear if name.startswith(model.ADAPTED)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), model)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of peft in a model by their names; none in one without adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "get_base_layer")}


def without_adapters(model: Network) -> Network:
    """A copy whose matrices are W + (α / r) B A; the model itself where it has no adapters."""
    adapted = list(adapted_layers(model))
    if not adapted:
        return model
    plain = copy.deepcopy(model)
    for name in adapted:
        layer = plain.get_submodule(name)
        layer.merge()  # type: ignore[operator]
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, layer.get_base_layer())  # type: ignore[operator]
    return plain
