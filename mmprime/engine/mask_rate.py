"""How much of a training state is masked: distributions of the masked share, each by its quantile function.

    s = 1 - (1 - u)^p                               power; p = 1 is uniform
    s = sin(π u / 2)                                arccos: density (2 / π) / sqrt(1 - s²)
    s = μ + σ Φ⁻¹(Φ(a) + u (Φ(b) - Φ(a)))           truncated_normal:μ:σ:LOW, a = (LOW - μ) / σ, b = (1 - μ) / σ

with u ~ U[0, 1). What is masked never depends on the data, so the optimum of the joint loss is the same for each.
States with a share below LOW are not trained, and a bound, which asks for them too, is as bad as the model is there.

Sources: Chang et al. (MaskGIT), arXiv 2202.04200 and (Muse) 2301.00704, arccos; Li et al. (MAR), arXiv 2406.11838, and
CubiD, arXiv 2603.19232, truncated normal (μ = 1, σ = 0.1, cut at 0.5).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MASK_RATES = ("arccos", "truncated_normal[:MEAN:STD:LOW]")


def masked_share(u: Tensor, rate: str = "", power: float = 1.0) -> Tensor:
    """Uniforms u in [0, 1), float64 -> shares in [0, 1] of the same shape. rate: one of `MASK_RATES`, "" for the power.

    Raises ValueError on an unknown rate, numbers it cannot have, a power <= 0 or one beside a rate.
    """
    if not power > 0:
        raise ValueError(f"mask_power must be > 0, got {power}")
    if not rate:
        return 1 - (1 - u) ** power
    if power != 1:
        raise ValueError(f"mask_power={power:g} and mask_rate={rate!r} both say how much is masked; set one")
    name, *words = rate.split(":")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    match name, numbers or [1.0, 0.1, 0.5]:
        case "arccos", _ if not numbers:
            return torch.sin(math.pi / 2 * u)
        case "truncated_normal", [mean, std, low] if math.isfinite(mean) and 0 < std < math.inf and 0 <= low < 1:
            first, last = torch.special.ndtr((torch.tensor([low, 1.0], dtype=torch.float64) - mean) / std).tolist()
            if last > first:
                return (mean + std * torch.special.ndtri(first + u * (last - first))).clamp(low, 1.0)
    raise ValueError(
        f"no mask rate {rate!r}; there are {', '.join(MASK_RATES)} with STD > 0 and 0 <= LOW < 1, near enough to MEAN"
    )
