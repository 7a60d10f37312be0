"""What a page shows of a growth: its picture, maps of rank and entropy, and a line of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmprime.engine import Canvas
from mmprime.generation.images import to_picture
from mmprime.generation.trace import reveal_maps

from .growth import Growth
from .limits import opacity

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 384  # pixels of a picture on the page
UNKNOWN = (0.91, 0.91, 0.91)
RAMP = ((0.20, 0.10, 0.35), (0.16, 0.45, 0.62), (0.35, 0.75, 0.50), (0.98, 0.90, 0.30))  # low to high

_NUMBERS = count()


def enlarged(image: Tensor) -> Image:
    """(3, H, W) as a picture of about `SIDE` pixels, each pixel a square."""
    return _numbered(to_picture(image, max(1, SIDE // image.shape[-1])))


def heat_map(values: Tensor, most: float) -> Image:
    """Maps (M, h, w) side by side, from 0 to `most` along `RAMP`; NaN is grey."""
    ramp = torch.tensor(RAMP)
    at = (values.float() / max(most, 1e-9)).clamp(0, 1).nan_to_num() * (len(RAMP) - 1)
    low = at.floor().long().clamp(max=len(RAMP) - 2)
    colours = torch.lerp(ramp[low], ramp[low + 1], (at - low)[..., None])
    colours = torch.where(values.isnan()[..., None], torch.tensor(UNKNOWN), colours)
    scale = max(1, SIDE // (2 * values.shape[-1]))
    cells = colours.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    gap = torch.ones(cells.shape[1], max(1, scale // 4), 3)
    return _numbered(to_picture(torch.cat([part for cell in cells for part in (cell, gap)][:-1], 1).permute(2, 0, 1)))


def _numbered(picture: Image) -> Image:
    """The same picture with a number beside its pixels: a file of the page is called by its content, and another one of
    the same content would be written over it while it is read."""
    picture.info["number"] = str(next(_NUMBERS))
    return picture


def maps(growth: Growth, canvas: Canvas, step: int) -> tuple[Image, Image]:
    """Of the digits that were known after `step`, level by level from the coarsest: the step at which each became
    known (0: given), and the entropy of what it was drawn from. Of a digit that was masked again the last time counts.
    """
    known = (growth.rank >= 0) & (growth.rank <= step)
    rank = reveal_maps(growth.rank.masked_fill(~known, -1)[None].cpu(), canvas)[0, 1:]
    entropy = reveal_maps(growth.entropy.masked_fill(~known, -1).nan_to_num(-1)[None].cpu(), canvas)[0, 1:]
    most = float(growth.entropy.nan_to_num(0).max())
    return heat_map(rank, growth.steps), heat_map(entropy, most)


def scale_words(growth: Growth) -> str:
    """What the colours of the two maps mean, in words."""
    most = float(growth.entropy.nan_to_num(0).max())
    return f"rank from 0 (dark) to {growth.steps} (yellow), entropy from 0 to {most:.2f} nats; grey: not known yet"


def status_line(growth: Growth, *notes: str | None) -> str:
    """Where a run stands, in a line: steps, what is known, passes, seconds; notes behind it."""
    state = "done" if growth.paused is None else "under way"
    numbers = f"{growth.known:.0%} known; {growth.passes} passes, {growth.seconds:.2f} s"
    about = "; ".join(note for note in notes if note)
    return f"{state} · step {growth.steps} · {numbers}" + (f" · {about}" if about else "")


def is_brushed(layers: Sequence[Image] | None) -> bool:
    """Whether anything is painted on the layers of a brush."""
    return any(bool(opacity(layer).any()) for layer in layers or ())
