"""AdamW, or Muon for the matrices of the trunk, with linear warm-up and cosine decay.

``lr(k) = lr · (k+1)/warmup`` for k < warmup, then ``lr · (r + (1-r)·(1+cos(π p))/2)`` where p runs from 0 to 1 over the
rest of the steps and r is ``final_lr_ratio``. A pure function of the step, so it needs no place in a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

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
            there = ", ".join(known)
            raise ConfigError(f"train.lr_scale.{name}: this task has the groups {there}{nearest(name, known)}")


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


def build_muon(matrices: list[nn.Parameter], config: TrainConfig) -> torch.optim.Muon:
    """Muon (Jordan 2024; Liu et al., arXiv 2502.16982) for hidden matrices: orthogonalized momentum.

    Its updates are scaled to the root mean square of AdamW's, so that one ``train.lr`` serves both.
    """
    return torch.optim.Muon(matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
