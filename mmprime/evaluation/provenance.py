"""Where a number comes from: hashes of models and datasets, versions of what computed it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from mmprime.io import sha256

PACKAGES = ("mmprime", "torch", "torchvision", "timm", "torch-fidelity", "transformers", "gguf", "tokenizers")
DIGITS = 16
_AT_ONCE = 1024  # entries whose bytes are copied together


def hash_files(*files: str | Path) -> str:
    """16 hex digits of the SHA-256 of the files' contents, in this order."""
    return sha256(*files)[:DIGITS]


def model_hash(directory: str | Path) -> str:
    """Of a model folder: its config and weights. Raises ValueError when a file is missing."""
    adapter = Path(directory, "adapter_model.safetensors").is_file()  # whose config.json has the hash of its checkpoint
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    files = [Path(directory, name) for name in ("config.json", weights)]
    for file in files:
        if not file.is_file():
            raise ValueError(f"no {file.name} in {directory}: not a model")
    return hash_files(*files)


def data_hash(directory: str | Path) -> str:
    """Of a dataset folder: its index, which holds the hash of every shard."""
    index = Path(directory, "index.json")
    if not index.is_file():
        raise ValueError(f"no index.json in {directory}: not a dataset")
    return hash_files(index)


def tensor_hash(*tensors: Tensor) -> str:
    """Of tensors: shapes, types and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in tensor.detach().split(_AT_ONCE) if tensor.ndim else [tensor.detach()]:
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


def averaged_by(directory: str | Path) -> float | None:
    """The EMA decay of the weights in a model folder, from its training.json; None when nothing is said.

    Raises ValueError on a training.json that is none.
    """
    record = Path(directory, "training.json")
    if not record.is_file():
        return None
    try:
        return float(json.loads(record.read_text(encoding="utf-8"))["config"]["train"]["ema"]) or None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{record} is no record of a training ({type(error).__name__}: {error}); remove it") from error


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute numbers here, where installed."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
