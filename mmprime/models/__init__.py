"""The network: a transformer that embeds digits and predicts whole tokens."""

from .adapters import choose_trained, without_adapters
from .attention import attention
from .checkpoint import load_model, save_model
from .config import DiTConfig
from .dit import PrimeDiT
from .network import Network
from .precision import autocast
from .presets import PRESETS, Preset
from .retrofit import Retrofit, RetrofitConfig
from .transplant import check_codes, transplant

__all__ = [
    "PRESETS",
    "DiTConfig",
    "Network",
    "Preset",
    "PrimeDiT",
    "Retrofit",
    "RetrofitConfig",
    "attention",
    "autocast",
    "check_codes",
    "choose_trained",
    "load_model",
    "save_model",
    "transplant",
    "without_adapters",
]
