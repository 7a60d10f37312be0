"""Draw the picture of the toy experiment: python tools/draw_toy.py [assets/toy/spiral.png]

    d = 72 · | t - round(t) |,  t = r/72 - a/2π          distance of (r, a) to the nearest arm of a spiral, in pixels
    grey = 17 · round(15 · exp(-d²/2σ²)),  σ = 7,        0 where r < 20 or r > 240

Grey level is density, so the picture is the distribution: arms that are narrow in both coordinates, and gaps of
probability zero. It is a formula of this project, under the project's licence.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from . import console

SIZE, PITCH, SIGMA = 512, 72, 7.0


def spiral() -> Any:
    """The picture as a (512, 512) array of bytes, 16 levels of grey."""
    import numpy as np

    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    radius, turn = np.hypot(x, y), np.hypot(x, y) / PITCH - np.arctan2(y, x) / (2 * math.pi)
    distance = PITCH * np.abs(turn - turn.round())
    grey = 17 * np.rint(15 * np.exp(-(distance**2) / (2 * SIGMA**2)))
    return np.where((radius >= 20) & (radius <= 240), grey, 0).astype(np.uint8)


def write(arguments: list[str] | None) -> None:
    """Write the picture."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=console.out_file, default="assets/toy/spiral.png", metavar="FILE.png")
    out = parser.parse_args(arguments).out
    from PIL import Image

    from mmprime.io import whole_file

    if Path(out).suffix.lower() != ".png":
        raise ValueError(f"{out}: the picture is a .png")
    with whole_file(out) as temporary:
        Image.fromarray(spiral()).save(temporary, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(lambda: write(arguments))
