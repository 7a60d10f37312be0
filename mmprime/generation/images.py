"""From codes to files: pictures, labelled sheets, and the film of a canvas as it grows; and from files to images.

A partly known code is shown as what the model knows of it: the mean of the code vectors that agree with its visible
digits, decoded like any code vector. A masked code is the mean of the whole code book. Where the digits are those of
the tokenizer (`radices`), each masked one is its mean, so that no table of codes is needed.

Images are float (3, H, W) or (B, 3, H, W) in [0, 1]. Files are written under a temporary name and renamed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmprime.data.pictures import picture_size, read_square
from mmprime.engine import MASK_ID, Canvas, Codec
from mmprime.io import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmprime.tokenizers import ImageTokenizerBase

BACKGROUND = (255, 255, 255)
_AT_ONCE = 64  # pictures that are decoded together


def load_image(path: str | Path, side: int) -> Tensor:
    """An image file as (3, side, side), on white where it is transparent and around what is not square.

    Raises ValueError as `mmprime.data.pictures.read_square` does.
    """
    return to_tensor(read_square(path, side, "pad"))


def shape_warning(path: str | Path, side: int) -> str | None:
    """What is odd about a picture for a model of (side, side) pixels: a sheet of several pictures, or far from square.

    Raises ValueError as `picture_size` does.
    """
    width, height = picture_size(path)
    for scale in range(1, min(width, height) // side + 1):
        (columns, x), (rows, y) = (divmod(edge - scale, (side + 1) * scale) for edge in (width, height))
        if x == y == 0 and columns * rows > 1:
            return f"{path} is a sheet of {columns} x {rows} pictures; give one picture (--num 1 writes one)"
    if max(width, height) > 1.5 * min(width, height):
        return f"{path} is {width} x {height} pixels, far from square; it is padded with white"
    return None


def to_tensor(picture: Image) -> Tensor:
    """PIL RGB -> (3, H, W) in [0, 1]."""
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def to_picture(image: Tensor, scale: int = 1) -> Image:
    """(3, H, W) in [0, 1] -> PIL RGB, enlarged `scale` times with square pixels."""
    from PIL import Image

    data = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    picture = Image.fromarray(data.numpy())
    size = (picture.width * scale, picture.height * scale)
    return picture if scale == 1 else picture.resize(size, Image.Resampling.NEAREST)


def sheet(images: Tensor, labels: Sequence[str] | None = None, columns: int = 0, scale: int = 1) -> Image:
    """(B, 3, H, W) side by side, `columns` a row (0: near a square), each with its label below if there are labels.

    One picture without a label is that picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    if len(images) == 1 and not labels:
        return to_picture(images[0], scale)
    count, gap = len(images), 4 * scale if labels else scale
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    width, height = images.shape[-1] * scale, images.shape[-2] * scale
    font = ImageFont.load_default(size=max(10, width // 14))
    line = max(10, width // 14) + 4
    lines = [wrap(label, width, font) for label in labels] if labels else [[]] * count
    label_height = line * max(len(each) for each in lines)
    page = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + label_height + gap) + gap), BACKGROUND)
    pen = ImageDraw.Draw(page)
    for index, image in enumerate(images):
        x = gap + (index % columns) * (width + gap)
        y = gap + (index // columns) * (height + label_height + gap)
        page.paste(to_picture(image, scale), (x, y))
        for number, words in enumerate(lines[index]):
            pen.text((x + width / 2, y + height + line * number + 2), words, fill=(0, 0, 0), font=font, anchor="ma")
    return page


def wrap(text: str, width: int, font: object) -> list[str]:
    """Break text into lines no wider than `width` pixels; a longer single word stays whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        fits = font.getlength(longer) <= width  # type: ignore[attr-defined]
        if fits or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def partial_images(y: Tensor, canvas: Canvas, tokenizer: ImageTokenizerBase, name: str = "image") -> Tensor:
    """The image span of partly visible rows y (B, N) as pictures (B, 3, H, W).

    Raises ValueError for a span without a grid, and for digits that are not the tokenizer's where it has no table of
    vectors.
    """
    span = canvas.span(name)
    if span.grid is None:
        raise ValueError(f"span {name!r} has no grid, so it is no image")
    digits = canvas.view(y, name).unflatten(1, span.grid)
    if _same_digits(span.codec, tokenizer):
        return torch.cat([tokenizer.decode_digits(part) for part in digits.split(_AT_ONCE)])
    book = tokenizer.codebook_vectors().to(y.device)
    table = span.codec.encode(torch.arange(len(book), device=y.device))
    states, where = digits.flatten(0, 2).unique(dim=0, return_inverse=True)
    agree = torch.ones(len(states), len(book), device=y.device)
    for level in range(span.codec.num_digits):
        visible = states[:, level, None]
        agree *= (visible < 0) | (visible == table[None, :, level])
    means = agree @ book / agree.sum(-1, keepdim=True)
    return tokenizer.decode_vectors(means[where].view(len(y), *span.grid, -1))


def known_images(
    y: Tensor, canvas: Canvas, tokenizer: ImageTokenizerBase, name: str = "image"
) -> tuple[Tensor, Tensor]:
    """Of rows y (B, N): the image span as pictures (B, 3, H, W), and its codes (B, h, w), -1 where a digit is masked;
    digits (B, h, w, S) where there are more codes than integers. Raises ValueError as `partial_images` does."""
    span = canvas.span(name)
    digits = canvas.view(y, name)
    grid, known = span.grid or (1, -1), (digits >= 0).all(-1)
    if not span.codec.has_integers:
        return partial_images(y, canvas, tokenizer, name), digits.unflatten(1, grid)
    codes = torch.full(known.shape, MASK_ID, device=digits.device)
    codes[known] = span.codec.decode(digits[known])
    codes = codes.unflatten(1, grid)
    if not bool(known.all()):
        return partial_images(y, canvas, tokenizer, name), codes
    return torch.cat([tokenizer.decode(part) for part in codes.split(_AT_ONCE)]), codes


def _same_digits(codec: Codec, tokenizer: ImageTokenizerBase) -> bool:
    """Whether the digits of a span are those that the tokenizer decodes."""
    product = tokenizer.codec()
    if codec.radices != product.radices or codec.num_codes != product.num_codes:
        return False
    return not codec.has_table or torch.equal(codec.digits, product.encode(torch.arange(codec.num_codes)))


def code_mask(canvas: Canvas, codes: Tensor) -> Tensor:
    """Codes (h, w) bool of the image span -> its sub-tokens (N,). Raises ValueError on another shape."""
    grid = canvas.span("image").grid
    if codes.shape != grid:
        raise ValueError(f"a mask of codes is {tuple(codes.shape)}, the image {grid}")
    inside = torch.zeros(canvas.num_subtokens, dtype=torch.bool)
    inside[canvas.subtoken_slice("image")] = codes.flatten().repeat_interleave(canvas.span("image").codec.num_digits)
    return inside


def keep_outside(images: Tensor, image: Tensor, box: tuple[int, int, int, int] | Tensor, side: int) -> Tensor:
    """The image (3, H, W) with each of the images (B, 3, H, W) inside a box of codes, or codes (h, w), of `side`
    pixels."""
    if isinstance(box, Tensor):
        inside = box.repeat_interleave(side, 0).repeat_interleave(side, 1)
    else:
        x0, y0, x1, y1 = (side * edge for edge in box)
        inside = torch.zeros(image.shape[-2:], dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
    return torch.where(inside.to(images.device), images, image.to(images))


def film(frames: Sequence[Tensor], scale: int = 4, seconds: float = 3.0) -> list[tuple[Image, int]]:
    """Frames, each (B, 3, H, W), as sheets with their duration in ms; the last one stays for a second and a half."""
    each = max(40, round(1000 * seconds / max(1, len(frames))))
    pictures = [sheet(frame, scale=scale) for frame in frames]
    return [(picture, 1500 if index == len(pictures) - 1 else each) for index, picture in enumerate(pictures)]


def save_picture(path: str | Path, picture: Image) -> None:
    """Write a picture in the format its name asks for."""
    kind = picture_format(path)
    with whole_file(path) as temporary:
        picture.save(temporary, format=kind)


def save_film(path: str | Path, frames: Sequence[tuple[Image, int]]) -> None:
    """Write an endless GIF of (picture, milliseconds)."""
    first, *rest = [picture.quantize(colors=255) for picture, _ in frames]
    durations = [duration for _, duration in frames]
    with whole_file(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)


def picture_format(path: str | Path) -> str:
    """PIL's name for the format of a file name. Raises ValueError for one that cannot be written."""
    from PIL import Image

    Image.init()
    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"{path}: no picture format has the ending {Path(path).suffix!r}; use .png")
    return kind
