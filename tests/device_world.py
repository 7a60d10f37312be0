"""A stand-in for a GPU: tensors that say they are on `cuda:0`, compute on the CPU, and refuse to meet CPU tensors.

`FakeTensorMode` has no values, so it cannot follow a program that looks at its data; these have. Inside `StandIn` every
tensor made on or moved to "cuda" is an `OnDevice`. An op raises `Mixed` where it is given both (a CPU tensor without
axes may meet any; a CPU index is refused, though CUDA would copy it). What a GPU would wait for is counted by the line
of mmprime that asked: `syncs`, reads of values by the host; `sends`, copies from the host to the device.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda:0")
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten.bincount.default, aten._unique2.default, aten.repeat_interleave.Tensor, aten.unique_dim.default,
}  # fmt: skip
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index_put.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class Mixed(RuntimeError):
    """An op was given tensors of the device and of the host."""


class OnDevice(Tensor):
    """`inner` on the CPU, seen from outside as on `cuda:0` (torch itself takes it for `meta`, which needs no card)."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="meta", requires_grad=False,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, **kwargs: Any) -> str:
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, None)


class _Names(TorchFunctionMode):
    """The device "cuda" in the arguments of a function -> "meta", which needs no card; a sparse or pinned thing is none
    here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and (device := kwargs.pop("device", None)) is not None:
            return func(*args, **kwargs).to(_renamed(device))  # torch would not dispatch the copy
        if getattr(func, "__name__", "") == "new_tensor" and isinstance(args[0], OnDevice):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to("meta")
        if "device" in kwargs:
            kwargs["device"] = _renamed(kwargs["device"])
        return func(args[0], *map(_renamed, args[1:]), **kwargs) if func is Tensor.to else func(*args, **kwargs)


def _renamed(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("meta")
    return "meta" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


class StandIn(TorchDispatchMode):
    """Within it there is a device "cuda" that counts what a GPU would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: Counter[str] = Counter()
        self.sends: Counter[str] = Counter()
        self.names = _Names()

    def __enter__(self) -> StandIn:
        self.start, torch.cuda._lazy_init = torch.cuda._lazy_init, lambda: None  # there is nothing to start
        self.names.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self.names.__exit__(*exc)
        torch.cuda._lazy_init = self.start

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, self)

    def clear(self) -> None:
        self.syncs.clear()
        self.sends.clear()


def run(func: Any, args: Any, kwargs: dict[str, Any], counts: StandIn | None) -> Any:
    """One op on the CPU tensors inside. Raises Mixed."""
    given: list[Tensor] = []
    inner_args, inner_kwargs = _opened(args, given), {key: _opened(value, given) for key, value in kwargs.items()}
    here = [value for value in given if isinstance(value, OnDevice)]
    there = [value for value in given if not isinstance(value, OnDevice)]
    wanted = kwargs.get("device")
    if func not in COPIES and here and any(value.ndim for value in there):
        shapes = ", ".join(f"{'cuda' if isinstance(v, OnDevice) else 'cpu'} {tuple(v.shape)}" for v in given)
        raise Mixed(f"{func} at {caller()}: {shapes}")
    to_device = bool(here) if wanted is None else wanted.type != "cpu"
    if func is aten.copy_.default:
        to_device = isinstance(args[0], OnDevice)
    if counts is not None:
        bools = func in INDEXED and any(index is not None and index.dtype == torch.bool for index in args[1])
        if here and (func in READS or bools or (func in COPIES and not to_device)):
            counts.syncs[f"{caller()} {func.overloadpacket.__name__}"] += 1
        if func in COPIES and to_device and there:
            counts.sends[caller()] += 1
    if wanted is not None:
        inner_kwargs["device"] = torch.device("cpu")
    if func is aten._conj.default:
        func = aten.conj_physical.default  # a bit that says "conjugated" would not be seen from outside
    out = func(*inner_args, **inner_kwargs)
    return _closed(out, {id(value.inner): value for value in here}) if to_device else out


def _opened(value: Any, given: list[Tensor]) -> Any:
    """The CPU tensors inside of an argument; `given` gets its tensors."""
    if isinstance(value, Tensor):
        given.append(value)
        return value.inner if isinstance(value, OnDevice) else value
    return [_opened(each, given) for each in value] if isinstance(value, list | tuple) else value


def _closed(value: Any, known: dict[int, OnDevice]) -> Any:
    """A result on the device; what was changed in place is the tensor it was."""
    if isinstance(value, Tensor):
        return known.get(id(value)) if id(value) in known else OnDevice(value)
    return type(value)(_closed(each, known) for each in value) if isinstance(value, list | tuple) else value


def caller() -> str:
    """The innermost line of mmprime on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if "/mmprime/" in (name := frame.f_code.co_filename):
            return f"{name.rpartition('/mmprime/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
