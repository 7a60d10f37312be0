"""Text to ids and images to codes, and back: byte-level BPE, bytes, and a convolutional VQ autoencoder."""

from .config import ImageTokenizerConfig
from .image import ImageTokenizer, Reconstruction
from .text import TextTokenizer

__all__ = ["ImageTokenizer", "ImageTokenizerConfig", "Reconstruction", "TextTokenizer"]
