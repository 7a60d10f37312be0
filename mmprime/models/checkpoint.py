"""A model as two files a stranger can open: config.json and model.safetensors. No pickle.

    config.json        {"format": 1, "canvas": [spans], "model": {DiTConfig}, "dtype", "weights_sha256", ...extra}
    model.safetensors  weights by name, and the digit table of each span under codec.<span>.digits

A new folder appears whole; in one that exists the weights are replaced first. The config holds the hash of the
weights it belongs to, so a pair torn by a crash is told from a good one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mmprime.engine import Canvas, Codec, Span
from mmprime.files import sha256, whole_folder

from .config import DiTConfig
from .dit import PrimeDiT

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_OWN_KEYS = ("format", "canvas", "model", "dtype", "weights_sha256")
_ADDED = {"digit_embedding": "sum"}  # options younger than format 1, with what models had before
_SPAN_KEYS = {"name", "length", "radices"}


def save_model(
    directory: str | Path,
    model: PrimeDiT,
    canvas: Canvas | None = None,
    extra: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model and the canvas it works on (its own by default).

    extra: more top-level entries of config.json, e.g. {"tokenizers": {...}}. dtype: of the stored weights.
    Raises ValueError on an extra key that is taken, on a canvas with other codecs, on weights beyond the dtype.
    """
    canvas, extra = canvas or model.canvas, dict(extra or {})
    taken = sorted(set(extra) & set(_OWN_KEYS))
    if taken:
        raise ValueError(f"extra keys {', '.join(taken)} belong to the model; choose other names")
    for own in model.canvas.spans:
        if canvas.span(own.name).codec != own.codec:
            raise ValueError(f"span {own.name!r}: the canvas to save has another codec than the model")
    tensors = {name: _narrow(name, value, dtype) for name, value in model.state_dict().items()}
    tensors |= {_table_name(span.name): span.codec.digits.clone() for span in canvas.spans}
    body = save(tensors)
    architecture = dataclasses.asdict(model.config)
    for switch in DiTConfig.RUN_SWITCHES:
        del architecture[switch]
    config = {
        "format": FORMAT,
        "canvas": [
            {"name": span.name, "length": span.grid or span.num_tokens, "radices": span.codec.radices}
            for span in canvas.spans
        ],
        "model": architecture,
        "dtype": str(dtype).removeprefix("torch."),
        "weights_sha256": hashlib.sha256(body).hexdigest(),
        **extra,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    with whole_folder(directory) as folder:
        (folder / WEIGHTS).write_bytes(body)
        (folder / CONFIG).write_text(text, encoding="utf-8")


def load_model(directory: str | Path, device: torch.device | str = "cpu") -> tuple[PrimeDiT, Canvas, dict[str, Any]]:
    """Read what `save_model` wrote: the model in float32 and eval mode, its canvas, the whole config.

    Raises ValueError naming the file and what is wrong with it.
    """
    directory = Path(directory)
    config = _read_config(directory / CONFIG)
    tensors = _read_weights(directory / WEIGHTS, str(config["weights_sha256"]))
    try:
        canvas = Canvas([_span(entry, tensors) for entry in config["canvas"]])
        with torch.random.fork_rng(devices=[]):  # loading draws nothing from the caller's generator
            model = PrimeDiT(canvas, _architecture(config["model"]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from error
    _check_fit(directory / WEIGHTS, model.state_dict(), tensors)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.to(device).eval(), canvas, config


def _narrow(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = value.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(narrow).all():
        raise ValueError(f"weights {name!r} are not finite as {dtype} (largest {float(value.abs().max()):.3g})")
    return narrow.clone()


def _table_name(span: str) -> str:
    return f"codec.{span}.digits"


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a model directory holds {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    missing = [key for key in _OWN_KEYS if not isinstance(config, dict) or key not in config]
    if missing:
        raise ValueError(f"{path}: not a model config, lacks {', '.join(missing)}")
    if config["format"] != FORMAT:
        raise ValueError(f"{path}: format {config['format']!r}, this version reads {FORMAT}")
    return config


def _read_weights(path: Path, expected: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    found = sha256(path)
    if found != expected:
        raise ValueError(
            f"{path}: sha256 {found[:12]}…, {CONFIG} expects {expected[:12]}…; damaged or of another model"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from error


def _span(entry: Mapping[str, Any], tensors: dict[str, Tensor]) -> Span:
    """The span of a config entry; takes its digit table out of `tensors`."""
    if not isinstance(entry, dict) or set(entry) != _SPAN_KEYS:
        raise ValueError(f"a span of the canvas has the keys {sorted(_SPAN_KEYS)}, got {entry!r}")
    name, length = _table_name(entry["name"]), entry["length"]
    if name not in tensors:
        raise ValueError(f"the weights lack {name!r}, the digit table of span {entry['name']!r}")
    codec = Codec.from_table(tensors.pop(name), entry["radices"])
    return Span(entry["name"], tuple(length) if isinstance(length, list) else length, codec)


def _architecture(entry: Mapping[str, Any]) -> DiTConfig:
    known = {field.name for field in dataclasses.fields(DiTConfig)} - set(DiTConfig.RUN_SWITCHES)
    if not isinstance(entry, dict) or set(entry) | set(_ADDED) != known:
        unknown, missing = sorted(set(entry) - known), sorted(known - set(entry) - set(_ADDED))
        raise ValueError(f"model: unknown keys {unknown}, missing keys {missing}")
    return DiTConfig(**{**_ADDED, **entry})


def _check_fit(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    problems = [f"lacks {name}" for name in expected if name not in found]
    problems += [f"has unknown {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {tuple(found[name].shape)}, the config asks for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{path}: {'; '.join(problems[:3])}{more}")
