"""Codecs: how digits are chosen (vectors of codes to cluster), and codecs as files."""

from .cooccurrence import count_vectors, ppmi_vectors
from .files import load_codec, save_codec

__all__ = ["count_vectors", "load_codec", "ppmi_vectors", "save_codec"]
