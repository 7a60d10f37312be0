"""Attention with one signature and three back ends.

    out_i = Σ_j softmax_j(q_i · k_j / sqrt(Dh)) v_j,      j over the tokens of i's own segment

Layout (B, L, H, Dh). `segments` (B, L) int packs several examples in one row: a token attends within its own id of
its own row; -1 is padding, which attends to nothing, is attended by nothing and gives zeros.

| back end  | what runs                                                                | where        |
|-----------|--------------------------------------------------------------------------|--------------|
| sdpa      | F.scaled_dot_product_attention; segments as a boolean mask               | everywhere   |
| xformers  | memory_efficient_attention; segments as a block-diagonal bias            | CUDA only    |
| reference | softmax written out                                                      | everywhere   |

"auto" is sdpa. xformers is imported only when chosen.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

BACKENDS = ("auto", "sdpa", "xformers", "reference")
_CUDART = "libcudart.so.12"
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Segments:
    """Segment ids (B, L), with what each back end derives from them; build it once, use it in every layer."""

    ids: Tensor

    @functools.cached_property
    def has_padding(self) -> bool:
        return bool((self.ids < 0).any())

    @functools.cached_property
    def mask(self) -> Tensor:
        """(B, 1, L, L) bool: who may look at whom. Padding looks at itself, so that no softmax is empty."""
        same = self.ids[:, :, None] == self.ids[:, None, :]
        if self.has_padding:
            alone = torch.eye(self.ids.shape[1], dtype=torch.bool, device=self.ids.device)
            same = torch.where((self.ids < 0)[:, :, None], alone, same)
        return same[:, None]

    @functools.cached_property
    def blocks(self) -> tuple[Tensor, list[int]]:
        """Flat positions of the real tokens (T,), segment after segment, and the length of each segment."""
        stride = int(self.ids.max()) + 2
        row = torch.arange(len(self.ids), device=self.ids.device)[:, None]
        key = (row * stride + self.ids).flatten()
        real = (self.ids.flatten() >= 0).nonzero()[:, 0]
        order = real[torch.argsort(key[real], stable=True)]
        return order, torch.unique_consecutive(key[order], return_counts=True)[1].tolist()

    def clear_padding(self, out: Tensor) -> Tensor:
        return out.masked_fill((self.ids < 0)[..., None, None], 0.0) if self.has_padding else out


def attention(
    q: Tensor, k: Tensor, v: Tensor, segments: Tensor | Segments | None = None, backend: str = "auto"
) -> Tensor:
    """q, k, v (B, L, H, Dh), segments (B, L) int or None -> (B, L, H, Dh). Without segments q may be of fewer tokens.

    Raises ValueError on unknown back ends, on shapes that do not fit, and on xformers without CUDA.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention back end {backend!r}; there are {', '.join(BACKENDS)}")
    fewer = segments is None and q.ndim == k.ndim == 4 and (q.shape[0], *q.shape[2:]) == (k.shape[0], *k.shape[2:])
    if q.ndim != 4 or k.shape != v.shape or not (q.shape == k.shape or fewer):
        raise ValueError(f"q, k, v must share one shape (B, L, H, Dh), got {[tuple(t.shape) for t in (q, k, v)]}")
    if isinstance(segments, Tensor):
        segments = Segments(segments)
    if segments is not None and segments.ids.shape != q.shape[:2]:
        raise ValueError(f"segments must be {tuple(q.shape[:2])}, got {tuple(segments.ids.shape)}")
    chosen = "sdpa" if backend == "auto" else backend
    if not torch.compiler.is_compiling():
        _announce(chosen, q.device.type)
    return {"sdpa": _sdpa, "xformers": _xformers, "reference": _reference}[chosen](q, k, v, segments)


@functools.cache
def _announce(backend: str, device: str) -> None:
    _log.info("attention: %s on %s", backend, device)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, segments: Segments | None) -> Tensor:
    q, k, v = (rearrange(part, "b l h d -> b h l d") for part in (q, k, v))
    mask = None if segments is None else segments.mask
    out = rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h l d -> b l h d")
    return out if segments is None else segments.clear_padding(out)


def _reference(q: Tensor, k: Tensor, v: Tensor, segments: Segments | None) -> Tensor:
    score = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    if segments is not None:
        score = score.masked_fill(~segments.mask, -math.inf)
    out = torch.einsum("bhij,bjhd->bihd", score.softmax(-1), v)
    return out if segments is None else segments.clear_padding(out)


def _xformers(q: Tensor, k: Tensor, v: Tensor, segments: Segments | None) -> Tensor:
    require_xformers(q.device)
    ops = load_xformers()
    if segments is None:
        return ops.memory_efficient_attention(q, k, v)
    order, lengths = segments.blocks
    bias = ops.fmha.BlockDiagonalMask.from_seqlens(lengths, device=q.device)
    packed = [t.flatten(0, 1).index_select(0, order)[None] for t in (q, k, v)]
    out = ops.memory_efficient_attention(*packed, attn_bias=bias)[0]
    flat = out.new_zeros(q.shape[0] * q.shape[1], *q.shape[2:])
    return flat.index_copy(0, order, out).view_as(q)


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
