"""What is asked of `mmprime generate`: its command line, and what can be refused before a model is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmprime.generation.prompts import require_prompt

from . import console, sampling

DEFAULT_OUT = "out/sample.png"


def parse(arguments: list[str] | None = None, description: str = "") -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask = parser.add_argument_group("what is asked")
    add_prompt(ask)
    ask.add_argument("--image", help="a picture: captions are written, or with --region a part of it is repainted")
    ask.add_argument(
        "--resume-from",
        metavar="RUN.safetensors",
        help="finish what --pause-at left; --prompt and a box as --region (sampled again) change it",
    )
    ask.add_argument(
        "--region", nargs="+", action="append", default=[], metavar=("x0,y0,x1,y1", "key=value"),
        help="box in pixels of --image to repaint, x1 and y1 excluded; with key=value words a region with rules of its"
        " own, e.g. --region box=0,0,32,64 window=0,0.5 order=halton (may be repeated)",
    )  # fmt: skip
    ask.add_argument("--regions", metavar="FILE", help="YAML or JSON list of regions with their rules")
    sampling.add_sampling(parser.add_argument_group("how"), num=4)
    ask.add_argument(
        "--pause-at", type=_step_or_region, metavar="STEP|REGION",
        help="stop after a step, or when a region is done, and write what is known",
    )  # fmt: skip
    out = parser.add_argument_group("output")
    out.add_argument(
        "--out",
        type=console.out_file,
        help=f"picture file (default {DEFAULT_OUT}), or text file (default: only printed)",
    )
    out.add_argument("--trace", type=console.out_file, metavar="FILM.gif", help="film of the canvas as it grows")
    out.add_argument("--scale", type=console.positive, default=4, help="enlargement of pictures (default 4)")
    return parser.parse_args(arguments)


def add_prompt(ask: argparse._ArgumentGroup) -> None:
    """--prompt, --label and --model."""
    ask.add_argument(
        "--prompt", type=console.sentence,
        help="what to draw; for a text model the text to continue, or to fill where it has ___",
    )  # fmt: skip
    ask.add_argument(
        "--label", type=console.sentence, metavar="CLASS",
        help="name or number of a class, for a class-conditional model",
    )  # fmt: skip
    ask.add_argument(
        "--model", default=console.DEFAULT_MODEL, help="model folder (default: the shipped text-image model)"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong without loading a model. Raises ValueError."""
    if options.box is not None and options.image is None and options.resume_from is None:
        raise ValueError("--region with a box alone needs the --image it is a part of; rules are key=value words")
    if options.resume_from is not None:
        check_resumed(options)
    elif options.prompt is None and options.image is None and options.label is None:
        raise ValueError("nothing is asked: give --prompt, --image or --label")
    if options.prompt is not None:
        require_prompt(options.prompt)
    if options.image is not None and options.box is None and options.prompt is not None:
        raise ValueError("--image with --prompt needs --region x0,y0,x1,y1, the box to repaint")
    if options.image is not None and not Path(options.image).is_file():
        raise ValueError(f"no image at {options.image}")
    if options.box is not None:
        parse_box(options.box)
    if options.trace is not None and Path(options.trace).suffix.lower() != ".gif":
        raise ValueError(f"--trace {options.trace}: a film is a .gif")
    console.out_file(options.out or DEFAULT_OUT)
    console.require_path(options.regions, "--regions")
    if options.resume_from is not None and not Path(options.resume_from).is_file():
        raise ValueError(f"no paused run at {options.resume_from}")
    options.model = console.model_folder(options.model)


def _step_or_region(text: str) -> int | str:
    """An argparse type: a step from 1 on, or the name of a region."""
    if not text.strip():
        raise argparse.ArgumentTypeError("give a step or the name of a region")
    return console.positive(text) if text.lstrip("+-").isdecimal() else console.sentence(text)


def take_box(options: argparse.Namespace) -> None:
    """Move the --region that is a box alone to options.box. Raises ValueError on two of them."""
    boxes = [words[0] for words in options.region if len(words) == 1 and "=" not in words[0]]
    if len(boxes) > 1:
        raise ValueError(f"--region gives two boxes, {boxes[0]} and {boxes[1]}; one can be repainted at a time")
    options.box = boxes[0] if boxes else None
    options.region = [words for words in options.region if words != boxes]


def check_resumed(options: argparse.Namespace) -> None:
    """A paused run has its own request. Raises ValueError on an option that would change it."""
    default = vars(parse([]))
    free = ("resume_from", "prompt", "region", "box", "model", "out", "trace", "scale", "pause_at", "typed")
    for name, value in vars(options).items():
        if name not in free and value != default[name]:
            raise ValueError(f"--{name.replace('_', '-')} belongs to the paused run; it cannot change on the way")
    if options.region:
        raise ValueError("a resumed run keeps its regions; --region takes a box alone, which is sampled again")


def parse_box(text: str) -> tuple[int, int, int, int]:
    """ "x0,y0,x1,y1" -> four whole numbers with x0 < x1 and y0 < y1. Raises ValueError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.removeprefix("-").isdecimal() for part in parts):
        raise ValueError(f"--region {text!r} must be four whole numbers x0,y0,x1,y1")
    x0, y0, x1, y1 = (int(part) for part in parts)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"--region {text!r} is empty: x0 must be below x1, y0 below y1")
    return x0, y0, x1, y1


def snap_region(
    region: tuple[int, int, int, int], size: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box in pixels of a (width, height) picture, padded to a square, -> the smallest box of the grid that holds it.

    Raises ValueError when it leaves the picture.
    """
    width, height = size
    x0, y0, x1, y1 = region
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise ValueError(f"--region {x0},{y0},{x1},{y1} leaves the image, which is {width} x {height} pixels")
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    rows, columns = grid
    return (
        (x0 + left) * columns // side,
        (y0 + top) * rows // side,
        -(-(x1 + left) * columns // side),
        -(-(y1 + top) * rows // side),
    )
