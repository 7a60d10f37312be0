"""A codec as one safetensors file: the table, and in the header how it was made.

tensor    digits (C, S) int32
header    {"codec": JSON of {"format": 1, "radices", "fingerprint", "made": {...}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmprime.engine import Codec
from mmprime.io import whole_file

FORMAT = 1


def save_codec(path: str | Path, codec: Codec, made: Mapping[str, Any] | None = None) -> None:
    """Write a codec; `made` says how it came to be, in plain values."""
    about = {
        "format": FORMAT,
        "radices": codec.radices,
        "fingerprint": codec.fingerprint(),
        "made": dict(made or {}),
    }
    with whole_file(path) as temporary:
        save_file({"digits": codec.digits.to(torch.int32)}, temporary, {"codec": json.dumps(about)})


def load_codec(path: str | Path) -> tuple[Codec, dict[str, Any]]:
    """The codec of a file and how it was made. Raises ValueError naming the file and what is wrong with it."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("codec", "{}"))
            if about.get("format") != FORMAT:
                raise ValueError(f"format {about.get('format')!r}, this version reads {FORMAT}")
            codec = Codec.from_table(file.get_tensor("digits"), about["radices"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no codec file: {error}; make one with tools/prepare.py codec") from error
    if codec.fingerprint() != about["fingerprint"]:
        raise ValueError(f"{path}: the table has fingerprint {codec.fingerprint()}, its header {about['fingerprint']}")
    return codec, about["made"]
