"""AdamW, or Muon for the matrices of the trunk; learning rate with linear warm-up and cosine decay; averaged weights.

    lr(k) = lr · (k+1)/warmup  for k < warmup, then  lr · (r + (1-r)·(1+cos(π p))/2),  p from 0 to 1, r = final_lr_ratio
    e <- d·e + (1-d)·w  after each step, d = min(ema, (1+n)/(10+n)): a young average forgets the random start quickly

The learning rate is a pure function of the step, so no checkpoint needs to hold it. Only parameters are averaged;
buffers (code books, tables) are used as they stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .config_checks import ConfigError, nearest
from .schema import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of the update that follows ``step`` earlier ones."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


def check_lr_scale(config: TrainConfig, groups: Iterable[str]) -> None:
    """Raise ConfigError where ``train.lr_scale`` names a parameter group the task does not have."""
    known = list(groups)
    for name in config.lr_scale:
        if name not in known:
            groups_known = ", ".join(known)
            raise ConfigError(f"train.lr_scale.{name}: this task has the groups {groups_known}{nearest(name, known)}")


def build_optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices (two axes or more) only, never on gains, biases and scales."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=1e-8, fused=True)


def build_muon(matrices: list[nn.Parameter], config: TrainConfig) -> Muon:
    """Muon (Jordan 2024; Liu et al., arXiv 2502.16982) for hidden matrices: orthogonalized momentum.

    Its updates are scaled to the root mean square of AdamW's, so that one ``train.lr`` serves both.
    """
    return Muon(matrices, config.lr, config.weight_decay)


def muon_in_bfloat16(device: str) -> bool:
    """Whether Muon orthogonalizes in bfloat16 on this type of device; a CPU may lack its products, and crawls then.

    A torch that cannot tell is taken to have them.
    """
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {"bf16": True}
    return device != "cpu" or any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class Muon(torch.optim.Muon):
    """torch's; where not `muon_in_bfloat16` it orthogonalizes in float32, matrices of one shape together.

    Matrices that are shared out over processes (FSDP) stay with torch's. Momentum is Nesterov's, updates have AdamW's
    size.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; returns what the closure does."""
        every = [p for group in self.param_groups for p in group["params"]]
        if any(isinstance(p, DTensor) or muon_in_bfloat16(p.device.type) for p in every):
            return super().step(closure)
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        weights: list[Tensor] = []
        grads: list[Tensor] = []
        momenta: list[Tensor] = []
        self._init_group(group, weights, grads, momenta)
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, weight in enumerate(weights):
            by_shape.setdefault(tuple(weight.shape), []).append(index)
        for shape, chosen in by_shape.items():
            update = torch.stack([grads[i].lerp(momenta[i], group["momentum"]) for i in chosen])
            update = _orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            for index, each in zip(chosen, update):
                weights[index].mul_(1 - group["lr"] * group["weight_decay"])
                weights[index].add_(each, alpha=-0.2 * group["lr"] * math.sqrt(max(shape)))


def _orthogonalized(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton-Schulz iteration of each matrix of [n, rows, columns]: its singular values go to about 1."""
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class EMA:
    """Average of the trainable parameters of ``module``; ``decay`` 0 keeps a plain copy of the newest weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"train.ema={decay} must lie in [0, 1)")
        self.decay = decay
        self._live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}

    def decay_at(self, updates: int) -> float:
        """Decay used for the update that follows ``updates`` earlier ones."""
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the average towards the weights; ``updates`` counts the earlier calls (it is the step)."""
        weights: list[Tensor] = list(self._live.values())
        averages = [self.average[name] for name in self._live]
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(updates))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the block the module computes with the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, average: dict[str, Tensor]) -> None:
        """Take over a stored average; raises ValueError if the names differ."""
        if average.keys() != self.average.keys():
            odd = sorted(average.keys() ^ self.average.keys())
            raise ValueError(f"stored EMA does not fit the model: {len(odd)} names differ, first {odd[0]!r}")
        for name, value in average.items():
            self.average[name].copy_(value)

    def _swap(self) -> None:
        for name, parameter in self._live.items():
            parameter.data, self.average[name] = self.average[name], parameter.data
