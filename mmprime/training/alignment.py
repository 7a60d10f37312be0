"""Alignment of the trunk's middle to a frozen network's features of the clean picture, in the first part of a training.

    loss += weight · mean over image tokens (or patches) i of 1 - cos(P(h_i), f_i)

h (B, P, D): states of the image's tokens, or patches, after the middle block, of the partly masked example; f: one
vector each, from a convolutional network, made once (`picture_features`); P: a projection, trained along and not
exported. The model knows nothing of it: its block is watched while the objective forwards it.

Sources: Yu et al. (REPA), arXiv 2410.06940; stopped early after arXiv 2603.14366.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from mmprime.engine import Canvas
from mmprime.io import bar, whole_file
from mmprime.models import Network, PrimeDiT
from mmprime.tokenizers.losses import feature_network

from .config import ConfigError, resolve
from .examples import Examples
from .schema import DiffusionConfig

_BATCH = 64


class FeatureAlignment(nn.Module):
    """The projection and the term of the loss. steps: of the training that have it; grid: where the image's tokens are.

    Raises ConfigError where features and canvas do not fit, or the objective has several parts.
    """

    def __init__(self, config: DiffusionConfig, canvas: Canvas, model: PrimeDiT, features: Tensor | None) -> None:
        super().__init__()
        goal, said = config.objective, f"objective.align={config.objective.align:g}"
        if features is None:
            raise ConfigError(f"{said} needs data.features, a file of mmprime prepare features, and data in memory")
        several = any(0 < share < 1 for share in (*goal.mixture.values(), *goal.blend.values()))
        if several or config.run.compile:
            raise ConfigError(f"{said} is for one objective and one masking, without run.compile")
        trunk = model.patches.coarse(canvas)
        count, what = trunk.span("image").num_tokens, "tokens" if trunk is canvas else "patches"
        if features.shape[1] != count:
            raise ConfigError(f"data.features has {features.shape[1]} vectors a picture, the image span {count} {what}")
        self.weight, self.steps = goal.align, round(goal.align_share * config.train.steps)
        self.positions, self.image = trunk.token_slice("image"), canvas.mask("image")
        self.depth = (len(model.blocks) - 1) // 2
        width = model.config.width
        self.project = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, features.shape[2]))

    @classmethod
    def of(cls, config: DiffusionConfig, canvas: Canvas, model: Network, examples: object) -> FeatureAlignment | None:
        """As ``objective.align`` asks, to the features of the examples; None where it does not."""
        if not config.objective.align:
            return None
        if not isinstance(model, PrimeDiT):
            raise ConfigError(f"objective.align={config.objective.align:g} is for this project's own transformer")
        return cls(config, canvas, model, examples.features if isinstance(examples, Examples) else None)

    @contextmanager
    def watch(self, model: Network) -> Iterator[list[Tensor]]:
        """The states after the middle block of what is forwarded within, one a pass."""
        seen: list[Tensor] = []
        handle = model.get_submodule(f"blocks.{self.depth}").register_forward_hook(
            lambda block, given, out: seen.append(out)
        )
        try:
            yield seen
        finally:
            handle.remove()

    def forward(self, seen: list[Tensor], features: Tensor, absent: Tensor) -> Tensor:
        """One pass of states (B, P, D), features (B, l, F), absent (B, N) -> the mean distance () of those with an
        image."""
        (states,) = seen
        here = ~absent[:, self.image.to(absent.device)].any(-1)
        cosine = functional.cosine_similarity(self.project(states[:, self.positions]).float(), features.float(), dim=-1)
        return ((1 - cosine).mean(-1) * here).sum() / here.sum().clamp(min=1)


@torch.inference_mode()
def picture_features(images: Tensor, weights: str | Path, model: str, grid: tuple[int, int], side: int = 0) -> Tensor:
    """uint8 pictures (n, 3, H, W) -> float16 (n, h·w, F): the deepest feature map of a timm classifier that is at least
    as fine as the grid, averaged onto it. side: pixels a side that the network sees, 0 for those there are.

    Raises ValueError on an architecture that there is not, weights that do not fit, or a grid finer than every map.
    """
    import timm

    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}; timm.list_models() has names")
    side = side or images.shape[-1]
    reductions: list[int] = cast(Any, timm.create_model(model, features_only=True)).feature_info.reduction()
    fine = [level for level, reduction in enumerate(reductions) if side // reduction >= max(grid)]
    if not fine:
        raise ValueError(f"{model} sees {side} pixels as maps of at most {side // reductions[0]}, the grid is {grid}")
    network, parts = feature_network(weights, model, fine[-1] + 1), []
    for part in bar(images.split(_BATCH), "features", " batches"):
        pixels = part.float() / 255
        if side != pixels.shape[-1]:
            pixels = functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        pooled = functional.adaptive_avg_pool2d(network((pixels - 0.5) / 0.5)[-1], grid)
        parts.append(pooled.flatten(2).transpose(1, 2).half())
    return torch.cat(parts)


def save_features(path: str | Path, features: Tensor, keys: Sequence[str]) -> None:
    """Write features (n, l, F) of the pictures of these keys."""
    with whole_file(path) as temporary:
        save_file({"features": features.contiguous()}, temporary, {"keys": json.dumps(list(keys))})


def read_features(path: str, keys: Sequence[str]) -> Tensor:
    """The features (n, l, F) of pictures by their keys. Raises ConfigError: no such file, or pictures that it lacks."""
    try:
        with safe_open(resolve(path), "pt") as file:
            known = {key: row for row, key in enumerate(json.loads((file.metadata() or {})["keys"]))}
            features = file.get_tensor("features")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"data.features={path} is no file of mmprime prepare features: {error}") from error
    if missing := [key for key in keys if key not in known]:
        raise ConfigError(
            f"data.features={path} lacks {len(missing):,} of {len(keys):,} pictures, the first {missing[0]!r}; "
            "mmprime prepare features of the images that the codes were made of"
        )
    return features[torch.tensor([known[key] for key in keys], dtype=torch.int64)]
