"""A model as two files a stranger can open: config.json and model.safetensors. No pickle.

    config.json        {"format": 1, "canvas": [spans], "model": {DiTConfig}, "dtype", "weights_sha256", ...extra}
                       (model: {RetrofitConfig} where the network is that of another library)
    model.safetensors  weights by name, and the digit table of each span that has one under codec.<span>.digits

A model with low-rank adapters on a network of another library is written without the matrices of that network: the
config says {"adapter_of": {format, name, sha256}}, the weights are adapter_model.safetensors, by the names of
`retrofit.adapter_files`, and whoever reads it needs the checkpoint, which is looked for as `retrofit.base` says.

A span of product codes says "codec": "product" in the config and has no table.

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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmprime.codecs.weights import INTEGERS, NoInit, Stored, check_fit, check_hash, header, read_weights
from mmprime.engine import Canvas, Codec, Span
from mmprime.io import read_json, whole_folder

from .adapters import adapted_layers
from .config import DiTConfig
from .dit import PrimeDiT
from .network import Network
from .retrofit import Retrofit, RetrofitConfig
from .retrofit.adapter_files import (
    ADAPTER,
    adapter_tensors,
    expected_tensors,
    merge_adapter,
    read_rank,
    write_adapter_config,
)
from .retrofit.base import Checkpoint

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADAPTER_OF = "adapter_of"
_OWN_KEYS = ("format", "canvas", "model", "dtype", "weights_sha256")
_ADDED: dict[str, Any] = {  # options younger than format 1, with what models had before
    "digit_embedding": "sum", "head": "softmax", "span_heads": {}, "head_rounds": 0, "head_width": 0,
    "conditioning": "adaln_zero", "patch": 1,
}  # fmt: skip
_SPAN_KEYS = {"name", "length", "radices"}


def save_model(
    directory: str | Path,
    model: Network,
    canvas: Canvas | None = None,
    extra: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model and the canvas it works on (its own by default).

    extra: more top-level entries of config.json, e.g. {"tokenizers": {...}}; "checkpoint" is what adapters belong to.
    dtype: of the stored weights. Raises ValueError on an extra key that is taken, on a canvas with other codecs, on
    weights beyond the dtype, on adapters without a checkpoint.
    """
    canvas, extra = canvas or model.canvas, dict(extra or {})
    taken = sorted(set(extra) & {*_OWN_KEYS, ADAPTER_OF})
    if taken:
        raise ValueError(f"extra keys {', '.join(taken)} belong to the model; choose other names")
    for span in model.canvas.spans:
        if canvas.span(span.name).codec != span.codec:
            raise ValueError(f"span {span.name!r}: the canvas to save has another codec than the model")
    base = _base(model, extra)
    weights = adapter_tensors(model) if isinstance(model, Retrofit) and base else model.state_dict()
    tensors = {name: _narrow(name, value, dtype) for name, value in weights.items()}
    whole = torch.int32 if base else torch.int64
    tables = {_table_name(span.name): span.codec.digits for span in canvas.spans if span.codec.has_table}
    tensors |= {name: table.to(whole, copy=True) for name, table in tables.items()}
    body = save(tensors)
    architecture = dataclasses.asdict(model.config)
    for switch in model.config.RUN_SWITCHES:
        del architecture[switch]
    config = {
        "format": FORMAT,
        "canvas": [
            {"name": span.name, "length": span.grid or span.num_tokens, "radices": span.codec.radices}
            | ({} if span.codec.has_table else {"codec": "product"})
            for span in canvas.spans
        ],
        "model": architecture,
        "dtype": str(dtype).removeprefix("torch."),
        "weights_sha256": hashlib.sha256(body).hexdigest(),
        **({ADAPTER_OF: base.entry()} if base else {}),
        **extra,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    with whole_folder(directory) as folder:
        (folder / (ADAPTER if base else WEIGHTS)).write_bytes(body)
        if isinstance(model, Retrofit) and base:
            write_adapter_config(folder, model, base.name)
        (folder / CONFIG).write_text(text, encoding="utf-8")


def load_model(directory: str | Path, device: torch.device | str = "cpu") -> tuple[Network, Canvas, dict[str, Any]]:
    """Read what `save_model` wrote: the model in float32 and eval mode, its canvas, the whole config.

    The shapes that the config asks for are compared with those of the file's header before memory is taken for either.
    Raises ValueError naming the file and what is wrong with it: weights that are absent, unknown, of another shape, not
    floating-point, or not finite, by their names.
    """
    directory = Path(directory)
    config = _read_config(directory / CONFIG)
    path, adapter = directory / (ADAPTER if ADAPTER_OF in config else WEIGHTS), ADAPTER_OF in config
    check_hash(path, str(config["weights_sha256"]))
    rank, scale = read_rank(directory) if adapter else (0, 0.0)
    try:
        with safe_open(path, "pt") as file:
            model, canvas, shapes = _empty_model(directory, config, file)
            expected = _expected(directory, model, list(shapes), rank) if adapter else model.state_dict()
            check_fit(path, expected, shapes)
            weights = read_weights(path, expected, file)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from error
    if adapter:
        model = _on_base(directory, config, model)
        merge_adapter(model, weights, scale)
    else:
        model.load_state_dict(weights, assign=True)
        model.fill_buffers()
    return model.to(device).eval(), canvas, config


def _base(model: Network, extra: dict[str, Any]) -> Checkpoint | None:
    """What the adapters of a model belong to, taken out of `extra`; None where it has none."""
    if not adapted_layers(model):
        return None
    if not isinstance(model, Retrofit) or "checkpoint" not in extra:
        raise ValueError(
            "adapters are written where the checkpoint they belong to is known; merge them: without_adapters"
        )
    return Checkpoint.of(extra.pop("checkpoint"))


def _expected(directory: Path, model: Network, names: list[str], rank: int) -> dict[str, Tensor]:
    if not isinstance(model, Retrofit):
        raise ValueError(f"{directory / CONFIG}: {ADAPTER_OF} is of networks of other libraries; this model is none")
    return expected_tensors(model, names, rank)


def _on_base(directory: Path, config: Mapping[str, Any], model: Network) -> Retrofit:
    """A model whose weights are shapes, on the network of the checkpoint that its adapters belong to."""
    try:
        architecture, network = Checkpoint.of(config[ADAPTER_OF]).read()
        if architecture.family != model.config.family:
            raise ValueError(f"family is {model.config.family!r}, that of the checkpoint {architecture.family!r}")
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    return Retrofit(model.canvas, model.config, network)


def _empty_model(directory: Path, config: Mapping[str, Any], file: Any) -> tuple[Network, Canvas, dict[str, Stored]]:
    """The model of a config with weights that are shapes only, its canvas, and the header of an open file of weights,
    without tables of digits."""
    shapes = header(file)
    try:
        canvas = Canvas([_span(entry, file, shapes) for entry in config["canvas"]])
        model = _empty_network(canvas, config["model"], shapes)
    except RuntimeError as error:  # of torch, on sizes beyond 64 bits
        raise ValueError(f"{directory / CONFIG}: the sizes of the model are out of range: {error}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{directory / CONFIG}: {str(error).splitlines()[0]}") from error
    return model, canvas, shapes


def _empty_network(canvas: Canvas, entry: Any, shapes: Mapping[str, Stored]) -> Network:
    if isinstance(entry, dict) and "family" in entry:
        with torch.device("meta"), NoInit():
            return Retrofit(canvas, RetrofitConfig(**entry))
    architecture = _architecture(entry).resolve()
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    if architecture.depth != depth:
        raise ValueError(f"model: depth {architecture.depth}, the weights have {depth} blocks")
    with torch.device("meta"), NoInit():
        return PrimeDiT(canvas, architecture)


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
    config = read_json(path)
    missing = [key for key in _OWN_KEYS if key not in config]
    if missing:
        raise ValueError(f"{path}: not a model config, lacks {', '.join(missing)}")
    if config["format"] != FORMAT:
        raise ValueError(f"{path}: format {config['format']!r}, this version reads {FORMAT}")
    return config


def _span(entry: Mapping[str, Any], file: Any, shapes: dict[str, Stored]) -> Span:
    """The span of a config entry; takes its digit table, which it reads from the file, out of `shapes`."""
    if not isinstance(entry, dict) or set(entry) - {"codec"} != _SPAN_KEYS:
        raise ValueError(f"a span of the canvas has the keys {sorted(_SPAN_KEYS)}, got {entry!r}")
    name, length = _table_name(entry["name"]), entry["length"]
    length = tuple(length) if isinstance(length, list) else length
    if (kind := entry.get("codec")) is not None:
        if kind != "product":
            raise ValueError(
                f"span {entry['name']!r}: codec {kind!r} is none; there is 'product', or a table in the weights"
            )
        return Span(entry["name"], length, Codec.product(entry["radices"]))
    if name not in shapes:
        raise ValueError(f"the weights lack {name!r}, the digit table of span {entry['name']!r}")
    if shapes.pop(name)[1] not in INTEGERS:
        raise ValueError(f"{name!r}, the digit table of span {entry['name']!r}, holds no integers")
    codec = Codec.from_table(file.get_tensor(name).long(), entry["radices"])
    return Span(entry["name"], length, codec)


def _architecture(entry: Mapping[str, Any]) -> DiTConfig:
    known = {field.name for field in dataclasses.fields(DiTConfig)} - set(DiTConfig.RUN_SWITCHES)
    if not isinstance(entry, dict) or set(entry) | set(_ADDED) != known:
        unknown, missing = sorted(set(entry) - known), sorted(known - set(entry) - set(_ADDED))
        raise ValueError(f"model: unknown keys {unknown}, missing keys {missing}")
    return DiTConfig(**{**_ADDED, **entry})
