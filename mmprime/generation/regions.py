"""Regions as a user writes them, in a YAML or JSON file or as words of a command line, and where they lie on a canvas.

    - name: background          - name: face               - name: names
      span: image                 box: 16,16,48,48           words: Washington, Congress
      box: 16,16,48,48            guidance: 5                window: 0, 0.5
      outside: true               order: halton
      digits: 1                   budget: 6
      window: 0.5, 1              temperature: 0.8

Where: span (a modality), box (pixels of the picture, x1 and y1 excluded, widened to whole codes), mask (a picture,
white inside), words (of the text, those that are to be written anew, or ___), blanks (numbers of ___, from 1), digits
(levels, 0 is the coarsest); all that are given apply together, and outside takes the rest of the span. Rules: window,
order, budget, temperature, guidance, as in `mmprime.engine.Region`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmprime.engine import SAMPLERS, Canvas, Region, sampler_of
from mmprime.engine.samplers import CountPlanned

if TYPE_CHECKING:
    from mmprime.tokenizers import ImageTokenizerBase

MASK_SIDE = 1024  # pixels: a larger mask picture is shrunk to it


@dataclass(frozen=True)
class RegionSpec:
    """One region as it is written; see the module."""

    name: str
    span: str | None = None
    box: tuple[int, ...] | None = None
    mask: str | None = None
    words: tuple[str, ...] = ()
    blanks: tuple[int, ...] = ()
    digits: tuple[int, ...] | None = None
    outside: bool = False
    window: tuple[float, ...] = (0.0, 1.0)
    order: str = "nested"
    budget: int | None = None
    temperature: float | None = None
    guidance: float | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any], name: str) -> RegionSpec:
        """From keys and values, words or numbers; `name` is used when none is given. Raises ValueError."""
        name = str(given.get("name", name))
        known = {each.name for each in fields(cls)}
        if odd := sorted(map(str, set(given) - known)):
            raise ValueError(f"region {name!r} has no key {odd[0]!r}; there are {', '.join(sorted(known))}")
        kinds: dict[str, Any] = {
            "box": (int, 4), "window": (float, 2), "words": (str, 0), "blanks": (int, 0), "digits": (int, 0),
        }  # fmt: skip
        values: dict[str, Any] = {}
        for key, value in given.items():
            try:
                if key in kinds:
                    values[key] = _several(value, *kinds[key])
                elif key in ("budget", "temperature", "guidance"):
                    values[key] = int(str(value)) if key == "budget" else float(value)
                else:
                    values[key] = _truth(value) if key == "outside" else str(value)
            except (ValueError, TypeError) as error:
                raise ValueError(f"region {name!r}: {key} {value!r}: {error}") from error
        return cls(**{**values, "name": name})


def read_regions(path: str | Path) -> list[RegionSpec]:
    """A YAML or JSON file with a list of regions. Raises ValueError naming the file."""
    from omegaconf import OmegaConf

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file of regions at {path}")
    try:
        entries = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # yaml's errors have no common public base
        raise ValueError(f"{path} is neither YAML nor JSON: {str(error).splitlines()[0]}") from error
    if isinstance(entries, dict) and set(entries) == {"regions"}:
        entries = entries["regions"]
    if not isinstance(entries, list) or not entries or not all(isinstance(each, dict) for each in entries):
        raise ValueError(f"{path} holds no list of regions, each with keys like name, box, window")
    try:
        return [RegionSpec.read(each, f"region {number + 1}") for number, each in enumerate(entries)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_region(words: Sequence[str], name: str) -> RegionSpec:
    """["box=0,0,32,32", "window=0,0.5"] -> a region; a word without = is a box. Raises ValueError."""
    pairs = [word.partition("=") for word in words]
    return RegionSpec.read({key if equals else "box": value if equals else key for key, equals, value in pairs}, name)


def locate(
    spec: RegionSpec,
    canvas: Canvas,
    image: ImageTokenizerBase | None = None,
    stands_for: Mapping[int, tuple[str, int]] | None = None,
) -> Region:
    """The region on a canvas. stands_for: as of `mmprime.generation.infilling.Infill`.

    Raises ValueError on what the canvas does not have, and on an order that looks at the data.
    """
    order = sampler_of(spec.order)
    if not isinstance(order, CountPlanned):
        plans = ", ".join(name for name, kind in SAMPLERS.items() if issubclass(kind, CountPlanned))
        raise ValueError(f"region {spec.name!r}: order {spec.order!r} looks at the data or at the clock; use {plans}")
    mask = _where(spec, canvas, image, stands_for or {})
    window = (spec.window[0], spec.window[1])
    return Region(spec.name, mask, window, order, spec.budget, spec.temperature, spec.guidance)


def _where(
    spec: RegionSpec, canvas: Canvas, image: ImageTokenizerBase | None, stands_for: Mapping[int, tuple[str, int]]
) -> Tensor:
    pictured = spec.box is not None or spec.mask is not None
    written = bool(spec.words or spec.blanks)
    span = spec.span or ("image" if pictured else "text" if written else None)
    inside = canvas.mask(span)
    if pictured:
        if span != "image" or image is None:
            raise ValueError(f"region {spec.name!r}: a box or a mask lies in a picture, and there is none")
        grid = canvas.span("image").grid or (1, 1)
        if spec.box is not None:
            inside = inside & canvas.mask("image", box=snap(spec.box, image.downsample, grid, spec.name))
        if spec.mask is not None:
            inside = inside & _painted(spec.mask, canvas, grid)
    if written:
        inside = inside & _written(spec, canvas, stands_for)
    if spec.outside:
        inside = canvas.mask(span) & ~inside
    if spec.digits is not None:
        inside = inside & canvas.mask(digits=spec.digits)
    if not bool(inside.any()):
        raise ValueError(f"region {spec.name!r} is empty on this canvas: {canvas}")
    return inside


def snap(box: Sequence[int], side: int, grid: tuple[int, int], name: str) -> tuple[int, int, int, int]:
    """A box in pixels -> the smallest box of codes of `side` pixels that holds it. Raises ValueError outside."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= grid[1] * side and 0 <= y0 < y1 <= grid[0] * side):
        size = f"{grid[1] * side} x {grid[0] * side}"
        raise ValueError(f"region {name!r}: box {x0},{y0},{x1},{y1} is empty or leaves the picture of {size} pixels")
    return x0 // side, y0 // side, -(-x1 // side), -(-y1 // side)


def _painted(file: str, canvas: Canvas, grid: tuple[int, int]) -> Tensor:
    """White of a mask picture, by the majority of each code's pixels."""
    from mmprime.data.pictures import picture_size

    from .images import code_mask, load_image

    picture = load_image(file, min(MASK_SIDE, max(picture_size(file))))
    white = torch.nn.functional.interpolate(picture.mean(0)[None, None], grid, mode="area")[0, 0] > 0.5
    return code_mask(canvas, white)


def _written(spec: RegionSpec, canvas: Canvas, stands_for: Mapping[int, tuple[str, int]]) -> Tensor:
    """Text tokens to be written that stand for the words or blanks of a region."""
    wanted = [token for token, (word, number) in stands_for.items() if word in spec.words or number in spec.blanks]
    if not wanted:
        raise ValueError(
            f"region {spec.name!r}: nothing that is to be written stands for "
            f"{', '.join([*spec.words, *(f'blank {number}' for number in spec.blanks)])}"
        )
    first = canvas.token_slice("text").start
    return torch.isin(canvas.token_of, torch.tensor([first + token for token in wanted]))


def _several(value: Any, kind: type, count: int) -> tuple[Any, ...]:
    parts = value if isinstance(value, list | tuple) else [part.strip() for part in str(value).split(",")]
    values = tuple(kind(str(part)) for part in parts)
    if (count and len(values) != count) or not values:
        raise ValueError(f"give {count or 'at least one'} with commas, got {len(values)}")
    return values


def _truth(value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError("give true or false")
    return str(value).lower() == "true"
