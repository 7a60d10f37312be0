"""Text to ids and images to codes, and back: byte-level BPE, bytes, and a convolutional VQ autoencoder."""

from mmprime.tokenizers.config import ImageTokenizerConfig
from mmprime.tokenizers.image import ImageTokenizer, Reconstruction
from mmprime.tokenizers.text import TextTokenizer

__all__ = ["ImageTokenizer", "ImageTokenizerConfig", "Reconstruction", "TextTokenizer"]
