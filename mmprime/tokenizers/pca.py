"""Patches as quantised principal components: an image tokenizer of any size without training.

    y_k = Q_k(w_k · (x - μ))      x ≈ μ + Σ_k v_k[y_k]·w_k

x (3p²,): the pixels of a patch; μ, w_k: mean and principal directions of the patches it is fitted on, by falling
variance, so that digits run from coarse to fine; Q_k: 1-D k-means (Lloyd, IEEE Trans. Inf. Theory 28, 1982) of
coefficient k on b_k levels v_k. A masked digit counts as 0, the mean of its coefficient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from mmprime.codecs.weights import check_fit, header

from .base import ImageTokenizerBase, fill, open_weights, read_tokenizer_config, require_kind

_LARGEST, _MOST_LEVELS = 8192, 65536
_PATCHES = 2_000_000  # at most so many are fitted on, evenly spread
_ROUNDS = 500


@dataclass(frozen=True)
class PCAConfig:
    """A picture of `image_size`² pixels, patches of `patch`² pixels, `levels[k]` values of component k."""

    image_size: int
    patch: int
    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises ValueError, quoting the values, unless the numbers fit together."""
        size, patch, levels = self.image_size, self.patch, list(self.levels)
        if not (type(size) is int and type(patch) is int and 1 <= patch <= size <= _LARGEST and size % patch == 0):
            raise ValueError(f"image_size={size} must be a multiple of patch={patch}, at most {_LARGEST}")
        if not 1 <= len(levels) <= 3 * patch**2:
            raise ValueError(f"{len(levels)} components; a patch of {patch} x {patch} x 3 has 1 to {3 * patch**2}")
        odd = [b for b in levels if not (type(b) is int and 2 <= b <= _MOST_LEVELS)]
        if odd:
            raise ValueError(f"levels={levels}: {odd[0]} must lie in [2, {_MOST_LEVELS}]")


class PCATokenizer(ImageTokenizerBase):
    """Images to the quantised principal components of their patches; made by :meth:`fit` or :meth:`load`."""

    kind = "pca"
    config: PCAConfig
    mean: Tensor  # (3p²,)
    basis: Tensor  # (K, 3p²), orthonormal rows

    def __init__(self, config: PCAConfig) -> None:
        super().__init__()
        self.config, self.radices = config, tuple(config.levels)
        width = 3 * config.patch**2
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(len(config.levels), width))
        for k, count in enumerate(config.levels):
            self.register_buffer(f"levels_{k}", torch.zeros(count))

    @classmethod
    def fit(cls, images: Tensor, patch: int, levels: Sequence[int]) -> PCATokenizer:
        """Of uint8 images (n, 3, H, H). The same images give the same tokenizer.

        Raises:
            ValueError: if the images are not square uint8 pictures, the sizes do not fit, or a component has fewer
                different values than levels.
        """
        if (
            images.dtype != torch.uint8
            or images.ndim != 4
            or images.shape[1] != 3
            or images.shape[2] != images.shape[3]
        ):
            raise ValueError(f"PCA needs square uint8 pictures (n, 3, H, H), not {images.dtype} {tuple(images.shape)}")
        tokenizer = cls(PCAConfig(images.shape[-1], patch, tuple(levels)))
        rows = _patches(images, patch).flatten(0, 2)
        rows = rows[:: -(-len(rows) // _PATCHES)].double() / 255
        mean = rows.mean(0)
        rows -= mean
        _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        basis = vectors.T.flip(0)[: len(levels)]
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        basis = basis * largest.sign()  # an eigenvector has no sign of its own
        tokenizer.mean.copy_(mean)
        tokenizer.basis.copy_(basis)
        for k, coefficients in enumerate((rows @ basis.T).T):
            tokenizer.get_buffer(f"levels_{k}").copy_(lloyd(coefficients, levels[k], f"component {k}"))
        return tokenizer.eval()

    @classmethod
    def load(cls, directory: str | Path) -> PCATokenizer:
        """The tokenizer saved in `directory`.

        Raises:
            ValueError: if a file is absent or damaged, or its tensors are not those that the config asks for.
        """
        content = read_tokenizer_config(directory)
        require_kind(directory, content, cls.kind)
        path = Path(directory) / "config.json"
        try:
            config = PCAConfig(**{**content["config"], "levels": tuple(content["config"].get("levels", ()))})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        with torch.device("meta"):
            expected = cls(config)._essential_state()
        weights = Path(directory) / "model.safetensors"
        with open_weights(directory, content) as file:
            check_fit(weights, expected, header(file))
            tokenizer = cls(config)
            fill(weights, tokenizer._essential_state(), file)
        return tokenizer.eval()

    @property
    def downsample(self) -> int:
        return self.config.patch

    def level_values(self, k: int) -> Tensor:
        """(b_k,) the values of coefficient k, rising."""
        return self.get_buffer(f"levels_{k}")

    def _digits(self, images: Tensor) -> Tensor:
        coefficients = (_patches(images, self.config.patch) - self.mean) @ self.basis.T
        digits = torch.empty(coefficients.shape, dtype=torch.int64, device=images.device)
        for k in range(len(self.radices)):
            values = self.level_values(k)
            digits[..., k] = torch.bucketize(coefficients[..., k].contiguous(), (values[1:] + values[:-1]) / 2)
        return digits

    def _images(self, digits: Tensor) -> Tensor:
        columns = [
            self.level_values(k)[digits[..., k].clamp(min=0)].masked_fill(digits[..., k] < 0, 0.0)
            for k in range(len(self.radices))
        ]
        patches = torch.stack(columns, -1) @ self.basis + self.mean
        return rearrange(patches, "b h w (c p q) -> b c (h p) (w q)", c=3, p=self.config.patch)

    def _settings(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.config), "levels": list(self.config.levels)}


def lloyd(values: Tensor, count: int, name: str = "the values") -> Tensor:
    """(count,) rising centres of the 1-D k-means of float64 `values` (n,), from evenly spread quantiles.

    Raises:
        ValueError: if there are fewer than `count` different values.
    """
    ordered = values.sort().values
    distinct = ordered.unique_consecutive()
    if len(distinct) < count:
        raise ValueError(f"{name} has {len(distinct)} different values in these pictures, fewer than {count} levels")
    total = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centres = distinct[((torch.arange(count) + 0.5) * len(distinct) / count).long()]
    for _ in range(_ROUNDS):
        inner = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_tensor([len(ordered)])])
        size = edges.diff()
        means = (total[edges[1:]] - total[edges[:-1]]) / size.clamp(min=1)
        moved = torch.where(size > 0, means, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _patches(images: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) -> (B, h, w, 3·p·p)."""
    return rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=patch, q=patch)
