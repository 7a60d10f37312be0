"""The network: a transformer that embeds digits and predicts whole tokens."""

from mmprime.codecs.files import load_codec, save_codec

from .attention import Segments, attention
from .cached import CachedDiT
from .checkpoint import load_model, save_model
from .config import DiTConfig
from .dit import PrimeDiT
from .precision import autocast
from .presets import PRESETS, Preset
from .transplant import retrofit

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
