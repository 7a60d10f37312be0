"""Pictures of any kind and size as a model takes them: one preprocessing for all that a pipeline is given.

    path, bytes, PIL image    as `mmprime.data.pictures` reads them: upright, on white, 16-bit grey scaled, first frame
    array (H, W[, C])         uint8, bool, floats in [0, 1], uint16 as round(255 v / 65535); C = 1 to 4 (2, 4: alpha)
    tensor ([C,] H, W)        the same numbers, channels first; (B, C, H, W) and lists are several pictures

What is not square is padded with white (fit "pad"), or its middle is taken (fit "crop"); a line on stderr says which. A
float tensor (3, side, side) is taken as it is; all else becomes 8-bit first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmprime.data.pictures import Source, picture_size, read_picture, read_square
from mmprime.io import warn

from .images import to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "str | Path | bytes | Image | np.ndarray | Tensor"
Pictures: TypeAlias = "Picture | Sequence[Picture]"
Fit = Literal["pad", "crop"]
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def image_batch(images: Any, side: int, fit: Fit = "pad") -> Tensor:
    """One picture or several -> (B, 3, side, side) in [0, 1].

    Raises ValueError on none, on what is no picture, and as `mmprime.data.pictures.read_square` does.
    """
    _check_fit(fit)
    each = _listed(images)
    if not each:
        raise ValueError("no picture is given; give at least one")
    _tell_shapes(each, fit)
    return torch.stack([_image(image, side, fit) for image in each])


def mask_codes(mask: Any, image: Any, side: int, grid: tuple[int, int], fit: Fit = "pad") -> Tensor:
    """A mask as large as its picture, white where it is to be painted anew -> codes (h, w) bool of `grid` it meets.

    Raises ValueError on a mask of another size, on an empty one, and on several.
    """
    from PIL import ImageOps

    _check_fit(fit)
    if len(_listed(mask)) != 1 or len(_listed(image)) != 1:
        raise ValueError("one picture and one mask can be given at a time")
    source, picture = source_of(_listed(mask)[0]), source_of(_listed(image)[0])
    size, wanted = picture_size(source), picture_size(picture)
    if size != wanted:
        raise ValueError(
            f"the mask has {size[0]} x {size[1]} pixels, the picture {wanted[0]} x {wanted[1]}; give a mask of its size"
        )
    black = ImageOps.invert(read_picture(source))  # what is padded with white is then not marked
    white = 1 - to_tensor(read_square(black, side, fit)).mean(0)
    rows, columns = grid
    codes: Tensor = (white >= 0.5).unflatten(0, (rows, -1)).unflatten(2, (columns, -1)).any(3).any(1)
    if not bool(codes.any()):
        raise ValueError("the mask is empty: white marks what is to be painted anew, black what stays")
    return codes


def source_of(picture: Any) -> Source:
    """What `read_square` reads: an array or tensor as a PIL image. Raises ValueError on any other kind."""
    from PIL import Image as Pillow

    if isinstance(picture, str | Path | bytes | Pillow.Image):
        return picture
    if isinstance(picture, Tensor):
        values = picture.detach().cpu()
        return _from_array(values.permute(1, 2, 0).numpy() if values.ndim == 3 else values.numpy(), "tensor (C, H, W)")
    if isinstance(picture, np.ndarray):
        return _from_array(picture, "array (H, W, C)")
    kind = type(picture).__name__
    raise ValueError(f"{str(picture)[:60]!r} is no picture but {kind}; give a path, a PIL image, an array or a tensor")


def _from_array(values: np.ndarray, kind: str) -> Image:
    from PIL import Image as Pillow

    channels = values.shape[-1] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in _MODES or not values.size:
        raise ValueError(
            f"a picture as a {kind} has 1 to 4 channels, or none named; this one is of shape {values.shape}"
        )
    if values.dtype == np.bool_:
        eight = values.astype(np.uint8) * 255
    elif values.dtype == np.uint8:
        eight = values
    elif values.dtype == np.uint16:
        eight = ((values.astype(np.uint32) * 510 + 65535) // 131070).astype(np.uint8)
    elif np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise ValueError(f"a picture of floats lies in [0, 1], this one in [{low:.3g}, {high:.3g}]; divide by 255?")
        eight = np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    else:
        raise ValueError(f"a picture as a {kind} is uint8, uint16, bool or float, not {values.dtype}")
    shaped = eight[..., 0] if channels == 1 and eight.ndim == 3 else eight
    return Pillow.fromarray(np.ascontiguousarray(shaped), _MODES[channels])


def _listed(images: Any) -> list[Any]:
    """The pictures one by one."""
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    return list(images) if isinstance(images, list | tuple) else [images]


def _image(image: Any, side: int, fit: Fit) -> Tensor:
    """(3, side, side); a float tensor of that size in [0, 1] unchanged."""
    source = source_of(image)
    if isinstance(image, Tensor) and image.shape == (3, side, side) and image.is_floating_point():
        return image.detach().cpu().float()
    return to_tensor(read_square(source, side, fit))


def _tell_shapes(images: Sequence[Any], fit: Fit) -> None:
    """A line for the first picture that is not square."""
    for image in images:
        width, height = picture_size(source_of(image))
        if width != height:
            called = image if isinstance(image, str | Path) else "the picture"
            done, other = ("padded with white", "crop") if fit == "pad" else ("cut to its middle", "pad")
            warn(f"{called} is {width} x {height} pixels, not square: it is {done} (fit={other!r} does the other)")
            return


def _check_fit(fit: str) -> None:
    if fit not in ("pad", "crop"):
        raise ValueError(f"fit={fit!r}: 'pad' adds white to what is not square, 'crop' takes its middle")
