"""Pictures from files, bytes or Pillow's images: upright, on white, 8-bit RGB.

PNG, JPEG, WebP, BMP, GIF and TIFF are read; the content decides, whatever the name ends with.

    grey of b <= 16 bits               255 v / (2^b - 1), rounded (b = 16 but in a TIFF that says otherwise)
    float grey                         255 v, rounded, where all v are in [0, 1]; refused otherwise
    signed or 32-bit integer grey      refused: nothing says which value is white
    colour of 16 bits a channel        the high byte, which is how Pillow reads it
    CMYK, LAB, YCbCr, palette, 1 bit   Pillow's conversion; colour profiles are not applied
    transparency                       on white
    EXIF orientation                   applied; sizes are those of the upright picture
    frames, pages                      the first one; the first picture that has more gives a line on stderr

A picture of more than MAX_PIXELS (WebP a quarter, progressive JPEG half of it, as decoding them takes more memory) or
with a side over MAX_SIDE is refused by its header. Of a large JPEG that is to become small 1/2, 1/4 or 1/8 is decoded,
and that size counts. Every error is a ValueError that names the picture.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from mmprime.io import warn

if TYPE_CHECKING:
    from PIL.Image import Image

READING = "pictures 2"  # part of recipes and fingerprints: another one where pictures are read otherwise
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 2**26
MAX_SIDE = 2**16 - 1
_LARGE = 2**22  # pixels: a JPEG above is decoded at a fraction of its size where that is enough
_SPARE = 4  # what such a fraction keeps at least, in times the size asked for
_STRIP = 2**20  # pixels that are converted at a time
_WHITE = (255, 255, 255)
_warned_of_frames: list[str] = []
_ORIENTATION, _BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 0x112, 258, 262, 0

Source: TypeAlias = "str | Path | bytes | Image"
Convert = Callable[["Image"], "Image"]
Box = tuple[int, int, int, int]


def read_picture(source: Source, name: str | None = None) -> Image:
    """A picture at its own size, as an RGB image. `name` is what errors call it (default: the path).

    Raises ValueError naming the picture when it is none, is damaged, too large, or has no defined white.
    """
    with _opened(source, name) as image:
        _check_size(image)
        _make_upright(image)
        if image.mode == "RGB" and not image.has_transparency_data:
            return image
        return _gathered(image, (0, 0, *image.size), image.size)


def read_square(source: Source, side: int, fit: Literal["crop", "pad"] = "crop", name: str | None = None) -> Image:
    """A picture as an RGB image of side × side, bicubic with antialiasing.

    crop: its largest centred square. pad: all of it, centred on a white square. Raises as `read_picture` does.
    """
    with _opened(source, name) as image:
        if _progressive(image):
            _check_size(image)
        _draft(image, side, fit)
        _check_size(image)
        _make_upright(image)
        return (centre_crop if fit == "crop" else _padded)(image, side)


def picture_size(source: Source, name: str | None = None) -> tuple[int, int]:
    """(width, height) of the upright picture. Raises ValueError as `read_picture` does, of what a header tells."""
    with _opened(source, name, verify=False) as image:
        if image.format not in ("JPEG", "MPO"):  # of others finding the orientation may decode the picture
            _check_size(image)
        width, height = image.size
        turned = width != height and image.format != "TIFF" and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)


def picture_notes(source: Source) -> dict[str, str]:
    """The texts written beside the pixels (PNG). Raises ValueError as `read_picture` does, of what a header tells."""
    with _opened(source, None, verify=False) as image:
        return {str(key): value for key, value in image.info.items() if isinstance(value, str)}


def centre_crop(image: Image, side: int) -> Image:
    """The largest centred square of an upright image, as RGB, resized to side × side."""
    from PIL.Image import Resampling

    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    narrow = _gathered(image, (left, top, left + edge, top + edge), (side, edge))
    return narrow.resize((side, side), Resampling.BICUBIC)


def _padded(image: Image, side: int) -> Image:
    """All of an upright image on a white square. The long side is resized before the short one is padded."""
    from PIL import Image as Pillow

    width, height = image.size
    edge, wide = max(width, height), width >= height
    short = _gathered(image, (0, 0, width, height), (side, height) if wide else (width, side))
    page = Pillow.new("RGB", (side, edge) if wide else (edge, side), _WHITE)
    page.paste(short, (0, (edge - height) // 2) if wide else ((edge - width) // 2, 0))
    return page.resize((side, side), Pillow.Resampling.BICUBIC)


# --------------------------------------------------------------------------------------------------- opening


@contextmanager
def _opened(source: Source, name: str | None, verify: bool = True) -> Iterator[Image]:
    """The image of a source, not yet decoded. What goes wrong inside becomes a ValueError with the name."""
    called = name or (str(source) if isinstance(source, str | Path) else "the picture")
    try:
        with (
            warnings.catch_warnings(record=True) as said,
            _image(source, verify) as image,
        ):
            whole = image if isinstance(source, str | Path | bytes) else source
            several = whole.format != "MPO" and getattr(whole, "is_animated", False)
            yield image
    except FileNotFoundError as error:
        raise ValueError(f"no image at {called}") from error
    except Exception as error:  # on damaged input Pillow raises what its parsers raise, struct.error and KeyError too
        raise ValueError(f"{called} is not a readable image: {_reason(error)}") from error
    for message in sorted({str(warning.message).strip() for warning in said}):
        warn(f"{called}: {message}")
    if several and not _warned_of_frames:
        _warned_of_frames.append(called)
        warn(f"{called} has several frames; of such pictures only the first is read")


@contextmanager
def _image(source: Source, verify: bool) -> Iterator[Image]:
    """The image of a file or of bytes; a copy of an image."""
    if not isinstance(source, str | Path | bytes):
        yield source.copy()
        return
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream,
        _open(stream, verify) as image,
    ):
        yield image


def _open(stream: IO[bytes], verify: bool) -> Image:
    from PIL import Image as Pillow

    warnings.simplefilter("always")
    warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # MAX_PIXELS is below
    head = stream.read(16)
    if not head:
        raise ValueError("it is empty")
    try:
        if verify and head.startswith(b"\x89PNG"):  # the sums of all chunks, which decoding does not check
            with Pillow.open(stream, formats=("PNG",)) as image:
                image.verify()
        return Pillow.open(stream, formats=FORMATS)
    except Pillow.UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(FORMATS)}, or its header is damaged: {head!r}") from error


def _reason(error: Exception) -> str:
    from PIL import Image as Pillow

    if isinstance(error, Pillow.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels; make it smaller first"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _progressive(image: Image) -> bool:
    return "progressive" in image.info


def _check_size(image: Image) -> None:
    limit = MAX_PIXELS // (4 if image.format == "WEBP" else 2 if _progressive(image) else 1)
    if image.width * image.height > limit or max(image.size) > MAX_SIDE:
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, more than {limit:,} or a side over {MAX_SIDE:,}; "
            "make it smaller first"
        )


def _draft(image: Image, side: int, fit: str) -> None:
    """Have a large JPEG decoded at 1/2, 1/4 or 1/8 of its size where that is still _SPARE times what is asked for."""
    shrink = (min if fit == "crop" else max)(image.size) // (_SPARE * side)
    if shrink > 1 and image.width * image.height > _LARGE:
        image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))


# ------------------------------------------------------------------------------------------------ converting


def _make_upright(image: Image) -> None:
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)


def _gathered(image: Image, box: Box, size: tuple[int, int]) -> Image:
    """The box of an image as RGB, resized along one axis: strip by strip, so that little is held beside the image."""
    from PIL import Image as Pillow

    convert, page, columns = _converter(image), Pillow.new("RGB", size), size[0] == box[2] - box[0]
    for strip in _strips(box, columns):
        part = convert(image.crop(strip))
        fitted = (part.width, size[1]) if columns else (size[0], part.height)
        corner = (strip[0] - box[0], 0) if columns else (0, strip[1] - box[1])
        page.paste(part.resize(fitted, Pillow.Resampling.BICUBIC), corner)
    return page


def _strips(box: Box, columns: bool) -> Iterator[Box]:
    """A box cut into columns or rows of about _STRIP pixels."""
    left, top, right, bottom = box
    if columns:
        step = max(1, _STRIP // (bottom - top))
        for x in range(left, right, step):
            yield x, top, min(x + step, right), bottom
    else:
        step = max(1, _STRIP // (right - left))
        for y in range(top, bottom, step):
            yield left, y, right, min(y + step, bottom)


def _converter(image: Image) -> Convert:
    """What makes RGB on white of any part of this image. Raises ValueError where no white is defined."""
    tags = getattr(image, "tag_v2", {})
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode.startswith("I;16"):
        white = 2 ** tags.get(_BITS, (16,))[0] - 1
        return lambda part: _from_integers(part, white, inverted, image.info.get("transparency"))
    if image.mode == "F":
        return lambda part: _from_floats(part, inverted, image)
    if image.mode == "I":
        low, high = image.getextrema()
        raise ValueError(
            f"it has signed or 32-bit integers from {low} to {high} and nothing says which is white; "
            "save it with 8 or 16 bits, or as floats from 0 to 1"
        )
    return _on_white if image.has_transparency_data else lambda part: part.convert("RGB")


def _from_integers(part: Image, white: int, inverted: bool, transparent: int | None) -> Image:
    values = np.asarray(part).astype(np.uint32)
    grey = (np.minimum(values, white) * 510 + white) // (2 * white)
    grey = 255 - grey if inverted else grey
    if transparent is not None:
        grey[values == transparent] = 255
    return _from_grey(grey)


def _from_floats(part: Image, inverted: bool, image: Image) -> Image:
    values = np.asarray(part)
    if not ((values >= 0) & (values <= 1)).all():
        low, high = image.getextrema()
        raise ValueError(f"it has floats from {low} to {high}; floats from 0 (black) to 1 (white) are read")
    grey = np.rint(values.astype(np.float64) * 255)
    return _from_grey(255 - grey if inverted else grey)


def _from_grey(grey: np.ndarray) -> Image:
    from PIL import Image as Pillow

    return Pillow.fromarray(grey.astype(np.uint8)).convert("RGB")


def _on_white(part: Image) -> Image:
    from PIL import Image as Pillow

    page = Pillow.new("RGBA", part.size, (*_WHITE, 255))
    return Pillow.alpha_composite(page, part.convert("RGBA")).convert("RGB")
