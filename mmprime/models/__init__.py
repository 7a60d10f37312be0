"""The network: a transformer that embeds digits and predicts whole tokens."""

from .attention import Segments, attention
from .cached import CachedDiT
from .checkpoint import load_model, save_model
from .codec_file import load_codec, save_codec
from .config import DiTConfig
from .dit import PrimeDiT
from .precision import autocast
from .presets import PRESETS, Preset
from .retrofit import retrofit

__all__ = [
    "PRESETS",
    "CachedDiT",
    "DiTConfig",
    "Preset",
    "PrimeDiT",
    "Segments",
    "attention",
    "autocast",
    "load_codec",
    "load_model",
    "retrofit",
    "save_codec",
    "save_model",
]
