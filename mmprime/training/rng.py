"""Every random draw of a run is a pure function of named integers.

``derive_seed(seed, "step", 12, 3)`` is the seed of micro-batch 3 of step 12, whatever happened before; so a run that
is stopped and started again cannot drift. The global generators (a VQ code book revives dead codes with them) are
re-seeded the same way at each micro-batch, and stored in checkpoints as well.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmprime.engine import generator_of


def derive_seed(*parts: int | str) -> int:
    """A 64-bit seed that depends on every part and on their order (SHA-256 of their printed form)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def generator_for(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A fresh generator on ``device``, seeded by :func:`derive_seed`."""
    seed = derive_seed(*parts)
    cpu = torch.device(device).type == "cpu"  # whose generator would keep 32 bits of the seed
    return generator_of(seed) if cpu else torch.Generator(device=device).manual_seed(seed)


def seed_globals(*parts: int | str) -> None:
    """Seed torch's (every device), numpy's and Python's global generators by :func:`derive_seed`."""
    seed = derive_seed(*parts)
    torch.manual_seed(seed)
    torch.set_rng_state(generator_of(seed).get_state())
    np.random.seed([seed % 2**32, seed >> 32])  # noqa: NPY002  the legacy global state is what libraries draw from
    random.seed(seed)


def stratified(shares: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """(batch,) int64 draws from the distribution ``shares`` (float64), their numbers as even as the shares allow."""
    u = (torch.randperm(batch, generator=generator) + torch.rand(1, generator=generator)) / batch
    return torch.searchsorted(shares.cumsum(0), u.double(), right=True).clamp(max=len(shares) - 1)


def capture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of the global generators as (tensors, JSON values)."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss = random.getstate()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    for index in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        tensors[f"cuda{index}"] = torch.cuda.get_rng_state(index)
    values = {
        "numpy": [kind, int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }
    return tensors, values


def restore(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Put back what :func:`capture` returned."""
    torch.set_rng_state(tensors["torch"].to(torch.uint8))
    for name, state in tensors.items():
        if name.startswith("cuda") and torch.cuda.is_available() and int(name[4:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state.to(torch.uint8), int(name[4:]))
    kind, position, has_gauss, cached = values["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
