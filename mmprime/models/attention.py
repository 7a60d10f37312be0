"""Attention with one signature and three back ends.

    out_i = Σ_j softmax_j(q_i · k_j / sqrt(Dh)) v_j

| back end  | what runs                       | where        |
|-----------|---------------------------------|--------------|
| sdpa      | F.scaled_dot_product_attention  | everywhere   |
| xformers  | memory_efficient_attention      | CUDA only    |
| reference | softmax written out             | everywhere   |

"auto" is sdpa. xformers is imported only when chosen.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

BACKENDS = ("auto", "sdpa", "xformers", "reference")
_CUDART = "libcudart.so.12"
_log = logging.getLogger(__name__)


def attention(q: Tensor, k: Tensor, v: Tensor, backend: str = "auto") -> Tensor:
    """q (B, L', H, Dh), k, v (B, L, H, Dh) -> (B, L', H, Dh).

    Raises ValueError on unknown back ends, on shapes that do not fit, and on xformers without CUDA.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention back end {backend!r}; there are {', '.join(BACKENDS)}")
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        shapes = [tuple(part.shape) for part in (q, k, v)]
        raise ValueError(f"k and v must share one shape (B, L, H, Dh), q all of it but L, got {shapes}")
    chosen = "sdpa" if backend == "auto" else backend
    if not torch.compiler.is_compiling():
        _announce(chosen, q.device.type)
    return {"sdpa": _sdpa, "xformers": _xformers, "reference": _reference}[chosen](q, k, v)


@functools.cache
def _announce(backend: str, device: str) -> None:
    _log.info("attention: %s on %s", backend, device)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (rearrange(part, "b l h d -> b h l d") for part in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l h d")


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    score = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhij,bjhd->bihd", score.softmax(-1), v)


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    require_xformers(q.device)
    return load_xformers().memory_efficient_attention(q, k, v)


def require_xformers(device: torch.device) -> None:
    """Raises ValueError where xformers cannot run: it has no operator for a CPU, and is an optional package."""
    if device.type != "cuda":
        raise ValueError(f"attention back end 'xformers' has no operator for {device.type!r} tensors; use 'sdpa'")
    if importlib.util.find_spec("xformers") is None:
        raise ValueError(
            "attention back end 'xformers' is not installed: pip install 'mmprime[xformers]', or use 'sdpa'"
        )


@functools.cache
def load_xformers() -> Any:
    """`xformers.ops`, imported now. Its CUDA 12 build needs that runtime loaded first beside a torch of CUDA 13."""
    spec = importlib.util.find_spec("nvidia.cuda_runtime") if importlib.util.find_spec("nvidia") else None
    folders = list(spec.submodule_search_locations or []) if spec else []
    for candidate in [*(str(Path(folder, "lib", _CUDART)) for folder in folders), _CUDART]:
        try:
            ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
            break
        except OSError:
            continue
    return importlib.import_module("xformers.ops")
