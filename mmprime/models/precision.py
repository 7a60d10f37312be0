"""One word for the arithmetic of a run: auto, fp32, bf16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[object]:
    """The context to run a forward pass in. auto: bf16 on CUDA; fp32 elsewhere.

    bf16 pays on CPUs too where they have AVX512-BF16 or AMX. Weights stay in float32.
    Raises ValueError on an unknown word.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; there are {', '.join(PRECISIONS)}")
    kind = torch.device(device).type
    if precision == "fp32" or (precision == "auto" and kind != "cuda"):
        return nullcontext()
    return torch.autocast(kind, torch.bfloat16)
