"""The image tokenizer that a folder holds, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from .base import ImageTokenizerBase, read_tokenizer_config, require_kind
from .image import ImageTokenizer
from .pca import PCATokenizer
from .pixels import PixelTokenizer
from .vq_autoencoder import VQAutoencoder

IMAGE_TOKENIZERS: dict[str, type[ImageTokenizer] | type[PCATokenizer] | type[PixelTokenizer] | type[VQAutoencoder]] = {
    each.kind: each for each in (ImageTokenizer, PCATokenizer, PixelTokenizer, VQAutoencoder)
}


def load_image_tokenizer(directory: str | Path) -> ImageTokenizerBase:
    """The tokenizer saved in `directory`, in eval mode. Raises ValueError as the `load` of its kind does."""
    content = read_tokenizer_config(directory)
    require_kind(directory, content, *IMAGE_TOKENIZERS)
    return IMAGE_TOKENIZERS[content["kind"]].load(directory)
