"""What is given in a training example: a mixture of modes, drawn for each example.

    text_given   image from text             given[text]           text_absent   image alone     absent[text]
    image_given  text from image             given[image]          image_absent  text alone      absent[image]
    joint        all spans hidden, each by a time of its own or all by one: the rest of the probability

A given span is visible from the start; an absent one stays hidden and is not scored (the other branch of guidance).
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from mmprime.engine import Canvas
from mmprime.training.config import ConfigError
from mmprime.training.rng import stratified
from mmprime.training.schema import ConditionsConfig


class Conditions:
    """Masks of the modes on a canvas: ``given``, ``absent`` (M, N) bool; ``tokens`` (M,) tokens that are scored."""

    def __init__(self, canvas: Canvas, config: ConditionsConfig) -> None:
        shares = {k: float(v) for k, v in asdict(config).items() if k.endswith(("_given", "_absent")) and v}
        for mode, share in shares.items():
            span = mode.rsplit("_", 1)[0]
            if share < 0 or not canvas.has(span) or len(canvas.spans) == 1:
                raise ConfigError(
                    f"conditions.{mode}={share}: must be >= 0, and 0 without a span {span!r} beside another"
                )
        rest = 1 - sum(shares.values())
        if rest < -1e-6:
            raise ConfigError(f"conditions: the shares {shares} add up to more than 1")
        self.names = [*shares, "joint"]
        self.shares = torch.tensor([*shares.values(), max(rest, 0.0)], dtype=torch.float64)
        self.given = torch.stack([self._mask(canvas, name, "_given") for name in self.names])
        self.absent = torch.stack([self._mask(canvas, name, "_absent") for name in self.names])
        self.tokens = torch.stack([scored_tokens(canvas, g | a) for g, a in zip(self.given, self.absent)])

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """The mode of each example, (B,) int64."""
        return stratified(self.shares, batch, generator)

    @staticmethod
    def _mask(canvas: Canvas, mode: str, suffix: str) -> Tensor:
        if mode.endswith(suffix):
            return canvas.mask(mode.removesuffix(suffix))
        return torch.zeros(canvas.num_subtokens, dtype=torch.bool)


def scored_tokens(canvas: Canvas, fixed: Tensor) -> Tensor:
    """Number of tokens with a sub-token outside the region ``fixed`` (N,)."""
    return canvas.token_of[~fixed].unique().numel() * torch.ones((), dtype=torch.int64)
