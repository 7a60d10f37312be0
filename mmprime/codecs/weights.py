"""Weights in safetensors files: compared with what a config asks for by the header, then read as finite floats.

Nothing of the size of the weights is allocated before the header fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmprime.io import sha256

FLOATS = ("F32", "F16", "BF16", "F64")  # as safetensors calls them
INTEGERS = ("I64", "I32", "I16", "I8", "U8")
Stored = tuple[tuple[int, ...], str]  # shape and dtype of a tensor in a file


class NoInit(TorchFunctionMode):
    """Leaves out how weights start: on shapes `torch.nn.init` and factors do nothing, and computing what they would
    takes seconds of imports."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func is Tensor.mul and args[0].is_meta and isinstance(args[1], float):
            return args[0]
        return func(*args, **kwargs)


def header(file: Any) -> dict[str, Stored]:
    """Shape and dtype of each tensor of an open safetensors file."""
    parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in parts.items()}


def check_fit(path: Path, expected: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> None:
    """Compare a header with the tensors a model has (their shapes only; they may be on the meta device).

    Raises ValueError naming the file and the first tensors that are absent, unknown, of another shape or no floats.
    """
    problems = _names(expected, stored)
    for name, value in expected.items():
        shape, dtype = stored.get(name, (tuple(value.shape), FLOATS[0]))
        if shape != tuple(value.shape):
            problems.append(f"{name} is {shape}, the config asks for {tuple(value.shape)}")
        if dtype not in FLOATS:
            problems.append(f"{name} is {dtype}, weights are one of {', '.join(FLOATS)}")
    _refuse(path, problems)


@torch.no_grad()
def fill_weights(source: str, targets: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Copy weights of a layout into the tensors of the same names; a matrix may be stored as a 1×1 convolution.

    Raises ValueError naming the source and the first that are absent, unknown, of another shape or no finite floats.
    """
    problems = _names(targets, stored)
    for name in (name for name in targets if name in stored):
        shape, wanted = tuple(stored[name].shape), tuple(targets[name].shape)
        if shape not in (wanted, (*wanted, 1, 1)):
            problems.append(f"{name} is {shape}, the layout has {wanted}")
        elif not (stored[name].is_floating_point() and bool(stored[name].isfinite().all())):
            problems.append(f"{name} holds no finite floats")
    _refuse(source, problems)
    for name, target in targets.items():
        target.copy_(stored[name].view_as(target))


def read_weights(path: Path, expected: Mapping[str, Tensor], file: Any) -> dict[str, Tensor]:
    """The tensors named in `expected`, copied as float32. Raises ValueError naming one whose values are not finite."""
    return {name: _finite(path, name, file.get_tensor(name)) for name in expected}


def check_hash(path: Path, expected: str) -> None:
    """Raises ValueError unless the file is there and its SHA-256 is the one that its config.json records."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    digest = sha256(path)
    if digest != expected:
        raise ValueError(
            f"{path}: sha256 {digest[:12]}…, config.json expects {str(expected)[:12]}…; damaged or of another model"
        )


def load_plain(file: Path) -> Any:
    """What `torch.save` wrote, if it is plain values and tensors. Raises ValueError on anything that would run code."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip and torch, by what is wrong
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} holds more than weights, or is damaged, and is not run: {reason}") from error


def _names(expected: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    absent = [f"lacks {name}" for name in expected if name not in stored]
    return absent + [f"has unknown {name}" for name in stored if name not in expected]


def _refuse(source: object, problems: list[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{source}: {'; '.join(problems[:3])}{more}")


def _finite(path: Path, name: str, stored: Tensor) -> Tensor:
    value = stored.to(torch.float32, copy=True)
    if not bool(value.isfinite().all()):
        bad = value[~value.isfinite()]
        raise ValueError(
            f"{path}: {name} has {len(bad)} of {value.numel()} values that are not finite ({float(bad[0])})"
        )
    return value
