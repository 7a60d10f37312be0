"""What a piece of a training step asks of a device: operations, their FLOPs and bytes, and the memory alive at once.

Traced below autograd and autocast, so casts, backward and what checkpointing computes anew are in it; on fake tensors,
which have shapes and no values, or on real ones. A size that grows with the batch is told from one that does not by
shape: what has the shape of a parameter is a weight, or its gradient.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_FREE = {"_unsafe_view", "empty", "empty_like", "new_empty", "_local_scalar_dense", "lift_fresh", "detach", "sym_size"}
_LOOKUPS = {"embedding", "index_select", "gather", "index", "_embedding_bag", "_embedding_bag_forward_only"}
_SPECIAL = ("softmax", "silu", "gelu", "exp", "log", "logsumexp", "sigmoid", "tanh", "norm", "pow", "rsqrt")
_FLASH = {"_scaled_dot_product_flash_attention_for_cpu": 4, "_scaled_dot_product_flash_attention_for_cpu_backward": 10}


class Op(NamedTuple):
    """One operation: kind "product", "batched", "special" or "plain"; FLOPs of products; bytes read and written, of
    tensors of the batch and of weights; half: some of it in bf16."""

    kind: str
    flops: float
    bytes: float
    weight_bytes: float = 0.0
    half: bool = False

    def grown(self, factor: float) -> Op:
        """The same at `factor` times the batch."""
        return self._replace(flops=self.flops * factor, bytes=self.bytes * factor)


class OpTrace(TorchDispatchMode):
    """Within it operations are noted. ops: with their counts; peak: most bytes of new tensors alive at once, but for
    weights and their gradients."""

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.weights = {tuple(p.shape) for p in weights}
        self.ops: Counter[Op] = Counter()
        self.alive = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        outs = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        if func.is_view or name in _FREE or not outs:
            return out
        for each in outs:
            self._note(each)
        ins = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        self.ops[self._op(func, name, args, kwargs or {}, out, (ins, outs))] += 1
        return out

    def _op(self, func: Any, name: str, args: Any, kwargs: Any, out: Any, tensors: tuple[list[Tensor], ...]) -> Op:
        ins, outs = tensors
        moved = [*outs, *outs] if name in _LOOKUPS else [*ins, *outs]
        fixed = sum(_size(each) for each in moved if tuple(each.shape) in self.weights)
        rest = sum(map(_size, moved)) - fixed
        if name in _FLASH:
            q, k = args[1:3] if "backward" in name else args[:2]
            flops, kind = float(_FLASH[name] * q.numel() * k.shape[-2]), "batched"
        elif (packet := func.overloadpacket) in flop_registry:
            flops = float(flop_registry[packet](*args, **kwargs, out_val=out))
            kind = "product" if name in ("mm", "addmm") else "batched"
        else:
            kind, flops = "special" if any(word in name for word in _SPECIAL) else "plain", 0.0
        half = any(each.dtype == torch.bfloat16 for each in (*ins, *outs))
        return Op(kind, flops, rest, fixed, half)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known or tuple(tensor.shape) in self.weights:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._freed, size).atexit = False

    def _freed(self, size: int) -> None:
        self.alive -= size


def _size(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
