"""A denoiser from the section ``model`` of a config."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mmprime.engine import Canvas
from mmprime.models import DiTConfig, PrimeDiT
from mmprime.training.config import ConfigError
from mmprime.training.schema import ModelConfig


def build_model(canvas: Canvas, config: ModelConfig, num_classes: int | None = None) -> PrimeDiT:
    """A PrimeDiT with random weights from torch's global generator; empty values of ``config`` are the preset's.

    Raises:
        ConfigError: a preset or sizes that the model refuses.
    """
    known = {entry.name for entry in fields(DiTConfig)}
    values: dict[str, Any] = {
        entry.name: getattr(config, entry.name)
        for entry in fields(config)
        if entry.name in known and getattr(config, entry.name) not in (0, 0.0, "")
    }
    try:
        return PrimeDiT(canvas, DiTConfig(**values, num_classes=num_classes))
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
