"""Networks that give features of pictures.

Inception: the network of FID (Heusel et al., arXiv 1706.08500) as torch-fidelity computes it, weights in a file of the
user's; 2048 pooled features, 1008 bias-free logits for the Inception Score, and for sFID (Nash et al., arXiv
2103.03841) the first 7 channels of mixed_6/conv, rows × columns × channels as ADM's evaluator flattens them.
EffNet-Lite0: 1280 pooled features, weights in a package; numbers by these features are never called FID.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mmprime.io import bar

from ..cache import cached
from ..provenance import hash_files
from .effnet import WIDTH, EfficientNetLite0
from .sets import PictureSet, stacked

INCEPTION_VARIABLE = "MMPRIME_INCEPTION"
_INCEPTION_LAYERS = ["2048", "logits_unbiased"]
_SPATIAL_CHANNELS, _SPATIAL_WIDTH = 7, 17 * 17 * 7


class Features(NamedTuple):
    """features (n, d) float32; logits (n, k) and spatial features (n, d_s), or None."""

    features: Tensor
    logits: Tensor | None = None
    spatial: Tensor | None = None


@dataclass(frozen=True)
class FeatureExtractor:
    """network: uint8 (B, 3, H, W) -> Features. fingerprint: hash of the weights. width: d; spatial_width: d_s, or 0."""

    name: str
    width: int
    fingerprint: str
    network: Callable[[Tensor], Features]
    spatial_width: int = 0

    @torch.no_grad()
    def features(self, pictures: PictureSet, batch: int = 32, progress: bool = False) -> Features:
        """Of all the pictures. Raises ValueError when a feature is not finite."""
        parts = []
        for images in bar(stacked(pictures, batch), self.name, "batch", progress, -(-len(pictures) // batch)):
            parts.append([None if each is None else each.float().cpu() for each in self.network(images.to(_device()))])
        features, logits, spatial = (torch.cat(kind) if kind[0] is not None else None for kind in zip(*parts))
        assert features is not None
        every = Features(features, logits, spatial)
        for name, value in every._asdict().items():
            odd = [] if value is None else (~value.isfinite().all(-1)).nonzero().flatten().tolist()
            if odd:
                raise ValueError(
                    f"{self.name} gave {name} that are no numbers for {len(odd)} of {len(pictures)} pictures, first "
                    f"number {odd[0]}: its weights or that picture are damaged"
                )
        return every

    def cached_features(
        self, pictures: PictureSet, batch: int = 32, progress: bool = False, folder: Path | None = None
    ) -> Features:
        """The same, kept in a file whose name has the hash of the weights, that of the pictures, and their count."""

        def compute() -> dict[str, Tensor]:
            values = self.features(pictures, batch, progress)._asdict()
            return {name: value for name, value in values.items() if value is not None}

        name = f"features-{self.name.lower()}-{self.fingerprint}-{pictures.fingerprint()}-{len(pictures)}"
        name += "-spatial" if self.spatial_width else ""
        stored = cached(name, compute, ("features",), folder)
        return Features(stored["features"], stored.get("logits"), stored.get("spatial"))


def effnet() -> FeatureExtractor:
    """EfficientNet-Lite0. Raises ValueError when its package is not installed."""
    net = EfficientNetLite0().to(_device())
    return FeatureExtractor("EffNet-Lite0", WIDTH, net.fingerprint, lambda images: Features(net(images)))


def inception(file: str | Path | None = None, spatial: bool = False) -> FeatureExtractor:
    """Inception from a file of weights (None: $MMPRIME_INCEPTION); spatial: with the features of sFID.

    Raises ValueError as `check_inception` does.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path, weights = check_inception(file)
    with tempfile.TemporaryDirectory() as folder:
        copy = str(Path(folder, "weights.pth"))
        torch.save(weights, copy)  # torch-fidelity unpickles what it is given: let that be a file of our writing
        try:
            net = FeatureExtractorInceptionV3("inception", _INCEPTION_LAYERS, feature_extractor_weights_path=copy)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} does not hold the layers of Inception: {str(error)[:200]}") from error
    net, seen = net.to(_device()), list[Tensor]()
    if spatial:
        net.Mixed_6d.branch1x1.register_forward_hook(
            lambda _, __, output: seen.append(output[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1))
        )

    def network(images: Tensor) -> Features:
        features, logits = net(images)
        return Features(features, logits, seen.pop() if spatial else None)

    return FeatureExtractor("Inception", 2048, hash_files(path), network, _SPATIAL_WIDTH if spatial else 0)


def check_inception(file: str | Path | None = None) -> tuple[Path, dict[str, Tensor]]:
    """The file of Inception weights and what it holds. Raises ValueError saying how to pass it when it is absent."""
    hint = (
        "the Inception network (FID, KID, IS, precision and recall) needs its weights as a file: --inception FILE or "
        f"{INCEPTION_VARIABLE}=FILE, where FILE is weights-inception-2015-12-05-6726825d.pth, an asset of release "
        "v0.2.0 of torch-fidelity; without it ask for --metric fd-effnet-lite0"
    )
    file = file or os.environ.get(INCEPTION_VARIABLE)
    if not file or not Path(file).is_file():
        raise ValueError(hint if not file else f"no file at {file}; {hint}")
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{file} holds no plain weights; {hint}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{file} holds no plain weights; {hint}")
    return Path(file), weights


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
