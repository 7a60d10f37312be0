"""Batches of pictures in one .npz file, as ADM's evaluator reads them (Dhariwal & Nichol, arXiv 2105.05233).

arr_0: uint8 (n, H, W, 3). A reference batch may hold Inception's mean and covariance of its whole source instead, or
beside: mu (2048,) and sigma of the pooled features, mu_s (2023,) and sigma_s of the spatial ones. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mmprime.io import whole_file

from ..provenance import tensor_hash
from .sets import PictureArray, PictureSet, Statistics, stacked

_STORED = {"fid": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")}
_AT_ONCE = 256


class ReferenceBatch(NamedTuple):
    """pictures: None where the file holds statistics alone. statistics: by metric, "fid" and "sfid", where stored."""

    pictures: PictureSet | None
    statistics: dict[str, Statistics]


def read_batch(file: str | Path, size: int | None = None) -> ReferenceBatch:
    """What an .npz file holds of pictures and statistics; size: the pictures must be size × size.

    Raises ValueError when it holds neither, or something else under their names.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            known = {name: np.asarray(stored[name]) for name in _names() if name in stored.files}
    except (OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file} is no batch of pictures (an .npz with uint8 arr_0, or mu and sigma): {error}"
        ) from error
    statistics = {
        metric: _statistics(file, names, known[names[0]], known[names[1]])
        for metric, names in _STORED.items()
        if known.keys() >= set(names)
    }
    if "arr_0" not in known and not statistics:
        raise ValueError(f"{file} is no batch of pictures: it holds neither arr_0 nor mu and sigma")
    return ReferenceBatch(_pictures(file, known["arr_0"], size) if "arr_0" in known else None, statistics)


def read_pictures(file: str | Path) -> PictureSet:
    """The pictures of an .npz batch. Raises ValueError as `read_batch` does, and when it holds statistics alone."""
    pictures = read_batch(file).pictures
    if pictures is None:
        raise ValueError(f"{file} holds statistics and no pictures (arr_0); give it as --reference")
    return pictures


def write_batch(file: str | Path, pictures: PictureSet) -> None:
    """Write pictures as arr_0 of an .npz file, a few at a time: 50,000 of them need no memory."""
    height, width = pictures[0].shape[-2:]
    about = {"descr": "|u1", "fortran_order": False, "shape": (len(pictures), height, width, 3)}
    with (
        whole_file(file) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, about)
        for images in stacked(pictures, _AT_ONCE):
            member.write(images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())


def _names() -> list[str]:
    return ["arr_0", *(name for names in _STORED.values() for name in names)]


def _pictures(file: str | Path, images: np.ndarray, size: int | None) -> PictureArray:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"{file}: arr_0 is {images.dtype} {images.shape}, not uint8 (n, H, W, 3)")
    if size is not None and images.shape[1:3] != (size, size):
        raise ValueError(f"{file} holds {images.shape[2]} x {images.shape[1]} px, the model draws {size} x {size}")
    return PictureArray(torch.from_numpy(images).permute(0, 3, 1, 2))


def _statistics(file: str | Path, names: tuple[str, str], mu: np.ndarray, sigma: np.ndarray) -> Statistics:
    fits = mu.ndim == 1 and sigma.shape == (len(mu), len(mu)) and {mu.dtype.kind, sigma.dtype.kind} == {"f"}
    if not fits or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{file}: {names[0]} {mu.shape} and {names[1]} {sigma.shape} are no mean, covariance")
    mean, covariance = torch.from_numpy(mu).double(), torch.from_numpy(sigma).double()
    return Statistics(mean, covariance, tensor_hash(mean, covariance))
