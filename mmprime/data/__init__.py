"""Data: webdataset shards with an accountable index; captioned images, their VQ codes, and text.

Floor 2: knows the engine only. Tokenizers arrive as arguments, never as imports.
"""

from .codes import CodeDataset, CodeTokenizer, encode_dataset, encode_images, write_codes
from .images import ImageDataset, prepare_folder
from .shards import build_dataset, read_index, read_samples

__all__ = [
    "CodeDataset",
    "CodeTokenizer",
    "ImageDataset",
    "build_dataset",
    "encode_dataset",
    "encode_images",
    "prepare_folder",
    "read_index",
    "read_samples",
    "write_codes",
]
