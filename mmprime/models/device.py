"""The device that a name stands for, if this machine has it."""

from __future__ import annotations

import torch


def find_device(name: torch.device | str, option: str = "device") -> torch.device:
    """`cpu`, `cuda`, `cuda:1` as a device; `auto` is the GPU where there is one. Raises ValueError on any other."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{option}={name} is no device; use cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{option}={name}: only cpu and cuda are supported")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"{option}={name}, but torch sees {count or 'no'} CUDA devices; use {option}=cpu")
    return device
