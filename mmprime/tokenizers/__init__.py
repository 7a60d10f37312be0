"""Text to ids and images to codes or digits, and back: byte-level BPE, bytes; autoencoders, PCA patches, pixels."""

from .base import ImageTokenizerBase
from .config import ImageTokenizerConfig
from .image import ImageTokenizer, Reconstruction
from .pca import PCATokenizer
from .pixels import PixelTokenizer
from .stored import load_image_tokenizer
from .text import TextTokenizer

__all__ = [
    "ImageTokenizer",
    "ImageTokenizerBase",
    "ImageTokenizerConfig",
    "PCATokenizer",
    "PixelTokenizer",
    "Reconstruction",
    "TextTokenizer",
    "load_image_tokenizer",
]
