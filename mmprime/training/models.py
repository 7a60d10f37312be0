"""A denoiser from the section ``model`` of a config."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mmprime.engine import Canvas
from mmprime.models import DiTConfig, PrimeDiT, load_model, transplant

from .config import ConfigError, resolve
from .schema import ModelConfig


def build_model(canvas: Canvas, config: ModelConfig, num_classes: int | None = None) -> PrimeDiT:
    """A PrimeDiT with random weights from torch's global generator, or those of the model in ``config.init``.

    Empty values of ``config`` are the preset's.

    Raises:
        ConfigError: a preset or sizes that the model refuses, or other sizes than those of ``config.init``.
    """
    known = {entry.name for entry in fields(DiTConfig)}
    given = {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name in known}
    values: dict[str, Any] = {name: value for name, value in given.items() if isinstance(value, bool) or value}
    try:
        model = PrimeDiT(canvas, DiTConfig(**values, num_classes=num_classes))
        if config.init:
            transplant(model, load_model(resolve(config.init))[0])
        return model
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
