"""Do stored codes mean to a tokenizer what they meant to the one that made them?

Two tests, both with the codes as they are and with other readings of them:

    agreement   share of tokens with code = Q(E(image)): 1 when the tokenizer made the codes. It needs the images.
    survival    share of tokens with code = Q(E(D(code))): below 1 even for the right tokenizer, whose images are lossy,
                but lower still for codes that mean something else, because no image it was trained on looks like that

A reading is a table r (C,), code -> code, or, of tokens that are kept as digits, a map digits (..., S) -> digits;
shares are then of digits. Codes that are numbers of digits (FSQ levels, bits) are written by some programs least
significant digit first, or with each digit counted from the other end; those are the readings tried. Codes, or values
of digits, renumbered at random are the control. Where decoding loses nothing (pixels) every reading survives, where it
loses little (PCA patches) a wrong order may; there the images tell.

A tokenizer read with a wrong range, bit order or code book encodes and decodes its own codes alike, but its pictures
are others: a PSNR below 15 dB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmprime.engine import Codec

from .codes import CodeTokenizer, device_of, encode_images
from .images import decode_image, known_image
from .shards import read_samples

AS_STORED, REVERSED, FROM_THE_END = "as stored", "digits in reverse order", "each digit counted from the other end"
RENUMBERED = "renumbered at random"
LEAST_PSNR = 15.0  # dB
_FLOOR = 1e-8  # of the mean squared error: an exact copy counts 80 dB
Reading = Tensor | Callable[[Tensor], Tensor]


def readings(radices: Sequence[int], num_codes: int) -> dict[str, Tensor]:
    """Tables (C,) code -> code by name, no two alike: the identity, the control, and for digits their other readings.

    Raises ValueError when the radices do not make num_codes.
    """
    stored = torch.arange(num_codes)
    tables = {AS_STORED: stored, RENUMBERED: torch.randperm(num_codes, generator=torch.Generator().manual_seed(0))}
    if not radices:
        return tables
    if int(torch.tensor(list(radices)).prod()) != num_codes:
        raise ValueError(f"digits of {list(radices)} values do not make {num_codes} codes")
    codec, other_end = Codec.mixed_radix(radices), torch.tensor([radix - 1 for radix in radices])
    for name, order, flip in (
        (REVERSED, -1, False),
        (FROM_THE_END, 1, True),
        (f"{REVERSED}, {FROM_THE_END}", -1, True),
    ):
        digits = Codec.mixed_radix(radices[::order]).digits
        digits = digits.flip(-1) if order < 0 else digits
        table = codec.decode(other_end - digits if flip else digits)
        if not any(torch.equal(table, known) for known in tables.values()):
            tables[name] = table
    return tables


def digit_readings(radices: Sequence[int]) -> dict[str, Reading]:
    """Maps of digits (..., S) by name: those of `readings`. The reverse order only where it has the same radices."""
    base, generator = torch.tensor(list(radices)), torch.Generator().manual_seed(0)
    orders = [torch.randperm(count, generator=generator) for count in radices]
    maps: dict[str, Reading] = {
        AS_STORED: lambda digits: digits,
        RENUMBERED: lambda digits: torch.stack([order[digits[..., j]] for j, order in enumerate(orders)], -1),
        FROM_THE_END: lambda digits: base - 1 - digits,
    }
    if len(radices) > 1 and tuple(radices) == tuple(reversed(radices)):
        maps[REVERSED] = lambda digits: digits.flip(-1)
        maps[f"{REVERSED}, {FROM_THE_END}"] = lambda digits: base - 1 - digits.flip(-1)
    return maps


def agreement(
    codes: Tensor, images: Tensor, tokenizer: CodeTokenizer, tables: Mapping[str, Reading]
) -> dict[str, float]:
    """Of codes (n, L) or digits (n, L, S) and the uint8 images (n, 3, H, W) they were made of: the share that agrees,
    by reading.

    Raises ValueError when the images do not fit the tokenizer.
    """
    again = encode_images(images, tokenizer).long()
    return {name: float((_read(table, codes) == again).double().mean()) for name, table in tables.items()}


def survival(codes: Tensor, tokenizer: Any, tables: Mapping[str, Reading]) -> dict[str, float]:
    """Of codes (n, L) or digits (n, L, S): the share that is the same after decoding and encoding again, by reading."""
    device = device_of(tokenizer)
    shares = {}
    for name, table in tables.items():
        read = _read(table, codes).unflatten(1, tuple(tokenizer.grid)).to(device)
        with torch.inference_mode():
            if read.ndim == 4:
                again = tokenizer.encode_digits(tokenizer.decode_digits(read))
            else:
                again = tokenizer.encode(tokenizer.decode(read))
        shares[name] = float((read == again).double().mean())
    return shares


def psnr(original: Tensor, restored: Tensor) -> Tensor:
    """(n,) dB of images (n, 3, H, W) in [0, 1]; at most 80."""
    error = (original.double() - restored.double()).square().mean((1, 2, 3))
    return -10 * error.clamp(min=_FLOOR).log10()


def restored_psnr(codes: Tensor, images: Tensor, tokenizer: Any) -> float:
    """Mean dB between uint8 images (n, 3, H, W) and what their codes (n, L) or digits (n, L, S) decode to."""
    device = device_of(tokenizer)
    tokens = codes.long().unflatten(1, tuple(tokenizer.grid)).to(device)
    with torch.inference_mode():
        return float(psnr(images.to(device) / 255, tokenizer.decode_tokens(tokens)).mean())


def poor_reconstruction(decibels: float) -> str | None:
    """The problem that a PSNR so low stands for, if it is below 15 dB."""
    if decibels >= LEAST_PSNR:
        return None
    return (
        f"reconstruction mismatch: {decibels:.1f} dB PSNR, and below {LEAST_PSNR:.0f} dB a tokenizer is untrained, or "
        "its input range (prepare tokenizer --black), bit order or code book is not that of its weights"
    )


def _read(reading: Reading, codes: Tensor) -> Tensor:
    return reading[codes.long()] if isinstance(reading, Tensor) else reading(codes.long())


def find_images(path: str | Path, keys: Sequence[str]) -> tuple[list[int], Tensor | None]:
    """Of an image dataset folder the images of these keys: positions in `keys`, and uint8 (n, 3, H, W), None if none.

    Raises ValueError for damage, and for images of different sizes.
    """
    number_of = {key: number for number, key in enumerate(keys)}
    images: dict[int, Tensor] = {}
    for _, key, files in read_samples(path):
        if key in number_of:
            where = f"{path}: {key}"
            pixels = torch.from_numpy(decode_image(known_image(files, where), where).copy())
            images[number_of[key]] = pixels.permute(2, 0, 1)
        if len(images) == len(number_of):
            break
    sizes = {tuple(image.shape) for image in images.values()}
    if len(sizes) > 1:
        raise ValueError(f"{path} has images of different sizes: {sorted(sizes)}")
    order = sorted(images)
    return order, torch.stack([images[number] for number in order]) if images else None
