"""Data: webdataset shards with an accountable index; captioned images, their VQ codes, and text.

Tokenizers arrive as arguments, never as imports.
"""

from .building import build_dataset
from .check import Report, check_dataset
from .codes import CodeDataset, CodeTokenizer, encode_dataset, encode_images
from .images import ImageDataset, prepare_folder
from .shards import read_index, read_samples
from .text import Document, load_documents, pack_documents, prepare_text, read_documents, training_texts

__all__ = [
    "CodeDataset",
    "CodeTokenizer",
    "Document",
    "ImageDataset",
    "Report",
    "build_dataset",
    "check_dataset",
    "encode_dataset",
    "encode_images",
    "load_documents",
    "pack_documents",
    "prepare_folder",
    "prepare_text",
    "read_documents",
    "read_index",
    "read_samples",
    "training_texts",
]
