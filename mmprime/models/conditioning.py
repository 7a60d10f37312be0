"""Conditions of a model beside the canvas: class label, guidance scale, share of what is masked.

    c = Label[k] + f(guidance) + f'(mask rate),     f(s) = MLP(cos, sin of s at many frequencies)

k = num_classes is the null class: "no label given", what guidance compares with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprime.engine import Condition

from .config import DiTConfig

_STD = 0.02


class ScalarEmbedding(nn.Module):
    """A number for each example: (B,) -> (B, D)."""

    def __init__(self, width: int, count: int = 32) -> None:
        super().__init__()
        self.count = count
        self.first = nn.Linear(2 * count, width)
        self.second = nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:
        powers = torch.linspace(-2, 6, self.count, device=value.device)
        turn = value[:, None].to(self.first.weight.dtype) * powers.exp2()
        return self.second(F.silu(self.first(torch.cat([turn.cos(), turn.sin()], -1))))


class Conditioning(nn.Module):
    """Condition and visible state -> (B, 1, D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.label = None if config.num_classes is None else nn.Embedding(config.num_classes + 1, config.width)
        self.guidance = ScalarEmbedding(config.width) if config.guidance_scale else None
        self.mask_rate = ScalarEmbedding(config.width) if config.mask_rate else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=_STD)

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of cond that the model understands."""
        known = {"label": self.label, "guidance": self.guidance}
        return tuple(name for name, module in known.items() if module is not None)

    def forward(self, y: Tensor, cond: Condition | None) -> Tensor:
        """y (B, N); a label left out is the null class, a guidance left out is 0.

        Raises ValueError on unknown keys, wrong shapes and labels outside [0, num_classes].
        """
        cond = dict(cond or {})
        check_names(cond, self.names)
        for name, value in cond.items():
            if value.shape != y.shape[:1]:
                raise ValueError(f"cond[{name!r}] must be ({len(y)},), got {tuple(value.shape)}")
        parts = []
        if self.label is not None and self.num_classes is not None:
            label = cond.get("label", y.new_full((len(y),), self.num_classes)).long()
            if bool(((label < 0) | (label > self.num_classes)).any()):
                raise ValueError(
                    f"labels span [{int(label.min())}, {int(label.max())}], there are "
                    f"{self.num_classes} classes (and {self.num_classes} for none)"
                )
            parts.append(self.label(label))
        if self.guidance is not None:
            parts.append(self.guidance(cond.get("guidance", torch.zeros(len(y), device=y.device))))
        if self.mask_rate is not None:
            parts.append(self.mask_rate((y < 0).float().mean(-1)))
        return torch.stack(parts).sum(0)[:, None]

    def null(self, cond: Condition) -> dict[str, Tensor]:
        """The condition with every label replaced by the null class."""
        check_names(cond, self.names)
        return {
            name: torch.full_like(value, self.num_classes) if name == "label" else value  # type: ignore[arg-type]
            for name, value in cond.items()
        }


def check_names(cond: Condition, names: tuple[str, ...]) -> None:
    """Raises ValueError on a key the model was not built for."""
    unknown = sorted(set(cond) - set(names))
    if unknown:
        hint = f"it understands {', '.join(names)}" if names else "it has no such condition"
        raise ValueError(f"this model cannot be conditioned on {', '.join(unknown)}; {hint}")
