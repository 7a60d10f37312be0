"""Small image tokenizers of every kind."""

from __future__ import annotations

from typing import Any

import torch

from mmprime.tokenizers import ImageTokenizer, ImageTokenizerConfig

SMALL: dict[str, Any] = {
    "image_size": 16,
    "downsample": 4,
    "patch": 2,
    "widths": [16, 24],
    "encoder_blocks": [1, 1],
    "decoder_blocks": [1, 1],
    "num_codes": 32,
    "code_dim": 8,
    "revive_below": 0.1,
}
KINDS = {
    "vq": {"quantizer": "vq"},
    "cosine": {"quantizer": "vq", "cosine": True},
    "fsq": {"quantizer": "fsq", "levels": [4, 3, 5], "num_codes": 60},
    "lfq": {"quantizer": "lfq", "num_codes": 64},
    "bsq": {"quantizer": "bsq", "num_codes": 64},
    "rvq": {"quantizer": "rvq", "levels": [8, 4, 3], "num_codes": 96},
    "gvq": {"quantizer": "gvq", "levels": [8, 5], "num_codes": 40},
}
BOOKS = ("vq", "cosine", "rvq", "gvq")


def make(kind: str = "vq", **changes: Any) -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(ImageTokenizerConfig(**{**SMALL, **KINDS[kind], **changes}))
