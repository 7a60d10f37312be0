"""What is given in a training example: a mixture of modes, drawn for each example.

    text_given   image from text             given[text]           text_absent   image alone     absent[text]
    image_given  text from image             given[image]          image_absent  text alone      absent[image]
    joint        all spans masked, each by a time of its own or all by one: the rest of the probability

A given span is visible from the start; an absent one stays masked and is not scored (the other branch of guidance).
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from mmprime.engine import Canvas
from mmprime.evaluation.tasks import EvaluationTask

from .config import ConfigError
from .rng import stratified
from .schema import ConditionsConfig


class Conditions:
    """Masks of the modes on a canvas: ``given``, ``absent`` (M, N) bool; ``prompted`` (M,): whether text is what is
    given; ``tokens`` (M,) tokens that are scored, the positions of padding among them."""

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
        self.views = [_view(canvas, *mode) for mode in zip(self.names, self.given, self.absent)]
        self.prompted = torch.tensor([name == "text_given" for name in self.names])
        self.tokens = torch.tensor([view.num_tokens(canvas) for view in self.views])

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """The mode of each example, (B,) int64."""
        return stratified(self.shares, batch, generator)

    @staticmethod
    def _mask(canvas: Canvas, mode: str, suffix: str) -> Tensor:
        if mode.endswith(suffix):
            return canvas.mask(mode.removesuffix(suffix))
        return torch.zeros(canvas.num_subtokens, dtype=torch.bool)


def _view(canvas: Canvas, name: str, given: Tensor, absent: Tensor) -> EvaluationTask:
    """The mode as what is scored given what."""
    scored = tuple(span.name for span in canvas.spans if not (given | absent)[canvas.mask(span.name)].all())
    return EvaluationTask(name, scored, given, absent)
