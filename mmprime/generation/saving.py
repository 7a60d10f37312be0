"""Writing a model folder that holds all it needs: weights, canvas, tokenizers, how it is sampled, its card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmprime.engine import Canvas
from mmprime.io import whole_folder

from .defaults import write_sampling
from .model_folder import PAGE, TRAINING, ModelCard
from .model_page import model_page
from .sampling import SamplingConfig

if TYPE_CHECKING:
    from mmprime.models import Network
    from mmprime.tokenizers import ImageTokenizerBase, TextTokenizer

    Tokenizers = tuple[TextTokenizer | None, ImageTokenizerBase | None]


def write_model_folder(
    directory: str | Path,
    model: Network,
    canvas: Canvas,
    card: ModelCard,
    sampling: Mapping[str, SamplingConfig],
    tokenizers: Tokenizers,
    dtype: torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder; nothing in it points outside of it, unless `extra`, more entries of config.json, does, or the
    model has low-rank adapters, which are written alone and belong to `card.checkpoint`.

    dtype: of the stored weights, None the narrowest that holds them as they are. Raises ValueError on weights beyond
    it, and on a sampler that generation_config.json cannot say.
    """
    from mmprime.models import save_model

    present = {name: each for name, each in zip(("text", "image"), tokenizers) if each is not None}
    entries: dict[str, Any] = {
        "tokenizers": {name: f"{name}_tokenizer" for name in present},
        "fingerprints": {name: each.fingerprint() for name, each in present.items()},
    }
    with whole_folder(directory) as folder:
        for name, tokenizer in present.items():
            target = folder / f"{name}_tokenizer"
            if isinstance(tokenizer, torch.nn.Module):
                tokenizer.save(target, narrowest(tokenizer.state_dict().values()))
            else:
                tokenizer.save(target)
        weights = dtype or narrowest(model.state_dict().values())
        save_model(folder, model, canvas, entries | card.entries() | dict(extra or {}), weights)
        write_sampling(folder, sampling)
        if card.training:
            (folder / TRAINING).write_text(json.dumps(card.training, indent=1) + "\n", encoding="utf-8")
        parameters = sum(weight.numel() for name, weight in model.named_parameters() if "lora_" not in name)
        page = card.page or model_page(card, canvas, parameters)
        (folder / PAGE).write_text(page, encoding="utf-8")


def narrowest(tensors: Iterable[Tensor]) -> torch.dtype:
    """float16 where it holds every floating number of them exactly, else float32."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return torch.float16 if all(bool((t.half().to(t.dtype) == t).all()) for t in floats) else torch.float32
