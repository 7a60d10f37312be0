"""The network: a transformer that embeds digits and predicts whole tokens."""

from .attention import attention
from .checkpoint import load_model, save_model
from .config import DiTConfig
from .dit import PrimeDiT
from .precision import autocast
from .presets import PRESETS, Preset
from .transplant import transplant

__all__ = [
    "PRESETS",
    "DiTConfig",
    "Preset",
    "PrimeDiT",
    "attention",
    "autocast",
    "load_model",
    "save_model",
    "transplant",
]
