"""Text networks of other libraries as denoisers: masked diffusion, masked and causal language models."""

from .config import RetrofitConfig
from .denoiser import Retrofit

__all__ = ["Retrofit", "RetrofitConfig"]
