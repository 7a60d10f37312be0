"""A paused rollout as a file: safetensors, with the request as JSON in its header. No pickle.

y0, absent, cond.*        what was given            state.*     the rollout between two steps
region.*                  masks of regions          kept        an image whose pixels stay outside a box
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmprime.engine import Region
from mmprime.engine.samplers import CountPlanned, Regions, options_of, sampler_of
from mmprime.io import whole_file

from .defaults import entry_of, sampling_of
from .sampling import Paused

FORMAT = "mmprime paused run 2"


def save_paused(path: str | Path, paused: Paused, weights: str) -> None:
    """Write a paused rollout of the model whose weights have the hash `weights`."""
    config, regions = paused.config, paused.config.regions
    tensors = {"y0": paused.y0} | {f"state.{name}": value for name, value in paused.state.items()}
    tensors |= {f"cond.{name}": value for name, value in (paused.cond or {}).items()}
    tensors |= {f"region.{number}": region.mask for number, region in enumerate(regions)}
    tensors |= {} if paused.absent is None else {"absent": paused.absent}
    image, box = paused.kept or (None, None)
    tensors |= {} if image is None else {"kept": image}
    tensors |= {"kept_codes": box} if isinstance(box, Tensor) else {}
    if isinstance(config.sampler, Regions):
        config = replace(config, sampler=replace(config.sampler, parts=()))
    about = {
        "format": FORMAT,
        "weights": weights,
        "prompts": paused.prompts,
        "box": None if isinstance(box, Tensor) else box,
        "sampling": entry_of(config),
        "seed": config.seed,
        "regions": [_rules(region) for region in regions],
    }
    with whole_file(path) as temporary:
        body = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        temporary.write_bytes(save(body, {"request": json.dumps(about)}))


def load_paused(path: str | Path, weights: str) -> Paused:
    """Read what `save_paused` wrote. Raises ValueError when the file is none, or belongs to other weights."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no paused run at {path}")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("request", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no paused run: {error}") from error
    kind = about.get("format") if isinstance(about, dict) else about
    if kind != FORMAT:
        raise ValueError(f"{path} is no paused run: its header says {str(kind)[:60]}, not {FORMAT!r}")
    if about.get("weights") != weights:
        raise ValueError(
            f"{path} was paused with weights {str(about.get('weights'))[:12]}, this model has {weights[:12]}"
        )
    try:
        paused = _read(about, tensors)
        _check(paused)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged paused run ({type(error).__name__}: {error}); sample again") from error
    return paused


def _check(paused: Paused) -> None:
    """Raises ValueError on parts that do not fit each other."""
    y, shape = paused.state["y"], paused.y0.shape
    if paused.y0.ndim != 2 or y.shape != shape or paused.y0.dtype != torch.int64 or y.dtype != torch.int64:
        raise ValueError(f"y0 is {tuple(shape)} {paused.y0.dtype}, y {tuple(y.shape)} {y.dtype}")
    if not all(isinstance(prompt, str) for prompt in paused.prompts) or len(paused.prompts) not in (0, len(y)):
        raise ValueError(f"{len(paused.prompts)} prompts for {len(y)} examples")
    if not paused.step >= 0:
        raise ValueError(f"it stands at step {paused.step}")


def _is_seed(seed: object) -> bool:
    return type(seed) is int or (isinstance(seed, list) and all(type(each) is int for each in seed))


def _rules(region: Region) -> dict[str, Any]:
    rules = {name: value for name, value in vars(region).items() if name != "mask"}
    return {**rules, "order": region.order.name, "options": options_of(region.order)}


def _region(rules: dict[str, Any], mask: Tensor) -> Region:
    options = rules.pop("options")
    order = sampler_of(rules["order"], options)
    if not isinstance(order, CountPlanned):
        raise ValueError(f"the order {order.name!r} of a region is no plan by count")
    return Region(**{**rules, "mask": mask.to(torch.bool), "window": tuple(rules["window"]), "order": order})


def _read(about: dict[str, Any], tensors: dict[str, Tensor]) -> Paused:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    if not _is_seed(about["seed"]):
        raise ValueError(f"its seed is {str(about['seed'])[:60]}")
    config = replace(sampling_of(about["sampling"]), seed=about["seed"])
    if isinstance(config.sampler, Regions):
        parts = tuple(_region(rules, tensors[f"region.{number}"]) for number, rules in enumerate(about["regions"]))
        config = replace(config, sampler=replace(config.sampler, parts=parts))
    where = tensors["kept_codes"] if "kept_codes" in tensors else about["box"] and tuple(about["box"])
    kept = (tensors["kept"], where) if "kept" in tensors else None
    cond = part("cond.") or None
    return Paused(tensors["y0"], part("state."), config, tensors.get("absent"), cond, tuple(about["prompts"]), kept)
