"""Fréchet distance between two sets of pictures, computed by torch-fidelity.

    d² = |μ_1 - μ_2|² + Tr(Σ_1 + Σ_2 - 2 (Σ_1 Σ_2)^{1/2})

over features of the pictures (Heusel et al., arXiv 1706.08500). With the Inception weights, a file the user has, it is
FID; with EfficientNet-Lite0 it is FD-EffNet-Lite0, a number of its own that must not be compared with FIDs. Both are
biased upwards for few pictures, so compare only at equal counts.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

METRICS = {"fid": "FID", "fd-effnet-lite0": "FD-EffNet-Lite0"}
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_EFFNET = "mmprime-efficientnet-lite0"
_KEY = "frechet_inception_distance"


class Pictures(Dataset[Tensor]):
    """uint8 pictures (n, 3, H, W) as a dataset of (3, H, W)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def read_folder(folder: str | Path) -> Tensor:
    """All pictures of a folder and the folders in it, uint8 (n, 3, H, W), in the order of their paths.

    Raises ValueError on a missing folder, fewer than two pictures, an unreadable one, or pictures of different sizes.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    if len(files) < 2:
        raise ValueError(f"{folder} holds {len(files)} pictures ({', '.join(ENDINGS)}); at least two are needed")
    arrays: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as opened:
                arrays.append(np.asarray(opened.convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{file} is not an image that can be read") from error
        if arrays[-1].shape != arrays[0].shape:
            sizes = [f"{a.shape[1]} x {a.shape[0]}" for a in (arrays[0], arrays[-1])]
            raise ValueError(f"pictures of different sizes: {files[0]} is {sizes[0]}, {file} is {sizes[1]}")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def frechet_distance(
    generated: Tensor, reference: Tensor, metric: str = "fid", inception: str | Path | None = None, batch: int = 32
) -> float:
    """The distance between uint8 pictures (n, 3, H, W) and (m, 3, H, W).

    metric: "fid" with `inception`, a file of weights; or "fd-effnet-lite0". Raises ValueError on an unknown metric, a
    missing or foreign weights file, a judge that is not installed, fewer than two pictures.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; there are {', '.join(METRICS)}")
    if min(len(generated), len(reference)) < 2:
        raise ValueError(f"{len(generated)} and {len(reference)} pictures; at least two of each are needed")
    if metric == "fid":
        weights = check_inception(inception)
        return distance_by("inception-v3-compat", generated, reference, batch, feature_extractor_weights_path=weights)
    register_effnet()
    return distance_by(_EFFNET, generated, reference, batch)


def distance_by(extractor: str, generated: Tensor, reference: Tensor, batch: int = 32, **options: Any) -> float:
    """The distance in the features of an extractor registered with torch-fidelity; nothing is cached or fetched."""
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=Pictures(generated),
        input2=Pictures(reference),
        fid=True,
        feature_extractor=extractor,
        batch_size=batch,
        cuda=torch.cuda.is_available(),
        save_cpu_ram=True,
        cache=False,
        verbose=False,
        **options,
    )
    return float(found[_KEY])


def check_inception(file: str | Path | None) -> str:
    """The path of the Inception weights. Raises ValueError saying how to pass them when they are absent."""
    hint = (
        "FID needs the Inception weights as a file: --inception weights-inception-2015-12-05-6726825d.pth, an asset of "
        "release v0.2.0 of torch-fidelity; without it ask for --metric fd-effnet-lite0"
    )
    if file is None or not Path(file).is_file():
        raise ValueError(hint if file is None else f"no file at {file}; {hint}")
    try:
        torch.load(file, map_location="cpu", weights_only=True)  # torch-fidelity itself would run a pickle
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{file} holds no plain weights; {hint}") from error
    return str(file)


def register_effnet() -> None:
    """Make EfficientNet-Lite0 known to torch-fidelity. Raises ValueError when it is not installed."""
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    from .features import WIDTH, EfficientNetLite0, weights_file

    weights_file()
    if _EFFNET in FEATURE_EXTRACTORS_REGISTRY:
        return
    layer = str(WIDTH)

    class Extractor(FeatureExtractorBase):
        """The 1280 pooled features under torch-fidelity's interface."""

        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)
            self.net = EfficientNetLite0()

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return (layer,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return layer

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.net(images),)

    register_feature_extractor(_EFFNET, Extractor)
