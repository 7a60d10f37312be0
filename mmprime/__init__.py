"""Masked discrete diffusion over the digits of tokens: text and image codes in one model (MDM-Prime).

from mmprime import from_pretrained
pipe = from_pretrained("assets/models/emoji_t2i")
pipe("red apple", num_images_per_prompt=4).images
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generation.pipeline import Pipeline, from_pretrained
    from .generation.sampling import SamplingConfig
    from .generation.scheduler import DiscreteScheduler

__version__ = "0.1.0"
__all__ = ["DiscreteScheduler", "Pipeline", "SamplingConfig", "__version__", "from_pretrained"]
_HOMES = {
    "DiscreteScheduler": "scheduler", "Pipeline": "pipeline", "SamplingConfig": "sampling",
    "from_pretrained": "pipeline",
}  # fmt: skip


def __getattr__(name: str) -> Any:  # importing the package loads nothing heavy
    if name not in _HOMES:
        raise AttributeError(f"module 'mmprime' has no attribute {name!r}")
    return getattr(import_module(f"mmprime.generation.{_HOMES[name]}"), name)
