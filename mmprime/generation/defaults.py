"""How a model is sampled unless one says otherwise: `generation_config.json` of its folder, an entry for each span.

    {"image": {"sampler": "p2", "options": {"eta": 1.0}, "steps": 16, "guidance": 0, "guidance_schedule": "linear",
               "temperature": 1.0, "top_p": 1.0},
     "text":  {"sampler": "token_synchronous", "steps": 16}}

What an entry leaves out is that of `SamplingConfig`; a span without an entry, and a folder without the file, has the
default of its masking process (`default_sampling`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmprime.engine import Canvas, Guidance, Sampler, default_sampler, sampler_of
from mmprime.engine.samplers import options_of
from mmprime.io import read_json, write_text

from .sampling import SamplingConfig, steps_of

FILE = "generation_config.json"
IMAGE_GUIDANCE = 3.0
STEPS, TEXT_STEPS = 16, 64  # TEXT_STEPS: of a model that writes texts alone
_KEYS = {
    "sampler": str, "options": dict, "steps": int, "guidance": (int, float, dict, list), "guidance_schedule": str,
    "temperature": (int, float), "top_p": (int, float),
}  # fmt: skip


def default_sampling(canvas: Canvas, masking: str, level_powers: Sequence[float] = ()) -> dict[str, SamplingConfig]:
    """By span: the planned sampler of the masking process; pictures of a prompt or a class are guided.

    level_powers: of the schedule the model was trained under; then digits come in the order of their race.
    """
    sampler = default_sampler(masking, STEPS)
    if level_powers:
        sampler = sampler_of("first_hitting", {"schedule": f"levels:{','.join(map(str, level_powers))}"}, STEPS)
    configs = {
        "image": SamplingConfig(sampler, STEPS, IMAGE_GUIDANCE),
        "text": SamplingConfig(sampler, STEPS if canvas.has("image") else TEXT_STEPS),
    }
    return {span.name: configs.get(span.name, SamplingConfig(sampler)) for span in canvas.spans}


def read_sampling(
    directory: str | Path, canvas: Canvas, masking: str, level_powers: Sequence[float] = ()
) -> dict[str, SamplingConfig]:
    """By span: the entries of the folder's file over `default_sampling`, each with its sampler named.

    Raises ValueError naming the file on an entry that is none, or is of a span that the canvas has not.
    """
    configs = default_sampling(canvas, masking, level_powers)
    file = Path(directory) / FILE
    for name, entry in read_json(file).items() if file.is_file() else ():
        try:
            canvas.span(name)
            config = sampling_of(entry)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: {error}") from error
        configs[name] = config if config.sampler else replace(config, sampler=configs[name].sampler)
    return configs


def write_sampling(directory: str | Path, configs: Mapping[str, SamplingConfig]) -> None:
    """Write the file of a model folder: how to sample each span."""
    entries = {name: entry_of(config) for name, config in configs.items()}
    write_text(Path(directory) / FILE, json.dumps(entries, indent=2) + "\n")


def sampling_of(entry: Mapping[str, Any]) -> SamplingConfig:
    """A sampling config from its entry. Raises ValueError on an unknown key or a value of another kind."""
    if not isinstance(entry, dict):
        raise ValueError(f"an entry is an object with keys like sampler and steps, not {str(entry)[:60]!r}")
    for key, value in entry.items():
        if key not in _KEYS:
            raise ValueError(f"no key {key!r}; there are {', '.join(_KEYS)}")
        if value is not None and (not isinstance(value, _KEYS[key]) or isinstance(value, bool)):  # type: ignore[arg-type]
            raise ValueError(f"{key} cannot be {str(value)[:60]!r}")
    given = {key: value for key, value in entry.items() if value is not None}
    name, options = given.pop("sampler", None), given.pop("options", {})
    if name is None and options:
        raise ValueError(f"options {options} without a sampler they belong to")
    scale, schedule = given.pop("guidance", None), given.pop("guidance_schedule", "linear")
    if isinstance(scale, list):
        scale = torch.tensor(scale, dtype=torch.float64)
    guidance = None if scale is None else Guidance(scale, schedule)
    sampler = None if name is None else sampler_of(name, options, given.get("steps"))
    return SamplingConfig(sampler, guidance=guidance, **given)


def entry_of(config: SamplingConfig) -> dict[str, Any]:
    """What `sampling_of` reads; guidance by token is a list. Raises ValueError on a sampler that words cannot say."""
    guidance = Guidance.of(config.guidance)
    scale = guidance.scale
    sampler = config.sampler if isinstance(config.sampler, Sampler) else None
    return {
        "sampler": sampler and sampler.name,
        "options": options_of(sampler) if sampler else {},
        "steps": config.steps or (sampler and steps_of(sampler)),
        "guidance": scale.tolist()
        if isinstance(scale, Tensor)
        else dict(scale)
        if isinstance(scale, Mapping)
        else scale,
        "guidance_schedule": guidance.schedule,
        "temperature": config.temperature,
        "top_p": config.top_p,
    }
