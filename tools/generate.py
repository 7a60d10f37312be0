"""Draw pictures from a prompt, read captions from a picture, repaint a part of it, continue or fill a text.

    python tools/generate.py --prompt "a red apple" --num 4 --trace out/film.gif        pictures, and how they grew
    python tools/generate.py --image out/sample.png                                     captions
    python tools/generate.py --image out/sample.png --region 0,0,32,32 --prompt "..."   repaint a box
    python tools/generate.py --model assets/models/sotu --prompt "The state of the"     continue a text
    python tools/generate.py --model assets/models/sotu --prompt "a ___ of the Union"   fill ___

Exit codes: 0 done, 2 a mistake in what was asked (one line; no file is written).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmprime import console  # noqa: E402

DEFAULT_OUT = "out/sample.png"
IMAGE_GUIDANCE = 3.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask = parser.add_argument_group("what is asked")
    ask.add_argument(
        "--prompt", help="what to draw; for a text model the text to continue, or to fill where it has ___"
    )
    ask.add_argument("--label", type=console.whole, help="class to draw, for a class-conditional model")
    ask.add_argument("--image", help="a picture: captions are written, or with --region a part of it is repainted")
    ask.add_argument("--region", metavar="x0,y0,x1,y1", help="box in pixels of --image, x1 and y1 excluded")
    ask.add_argument(
        "--model", default=console.DEFAULT_MODEL, help="model folder (default: the shipped text-image model)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--num", type=console.positive, default=4, help="how many (default 4)")
    how.add_argument("--steps", type=console.positive, help="forward steps (default 16; for continuing a text 64)")
    console.add_guidance_arguments(how, None, "; default 3 for pictures")
    how.add_argument(
        "--sampler", "--plan", dest="sampler", nargs="+", metavar=("NAME", "key=value"),
        help="order of revealing and its options (default: as the model was trained); --sampler list prints them all",
    )  # fmt: skip
    how.add_argument("--seed", type=console.whole, default=0)
    how.add_argument("--temperature", type=float, default=1.0)
    how.add_argument("--top-p", type=float, default=1.0)
    how.add_argument("--new-tokens", type=console.positive, help="length of a continuation (default: what fits)")
    how.add_argument("--blank-tokens", type=console.positive, default=4, help="tokens for each ___ (default 4)")
    out = parser.add_argument_group("output")
    out.add_argument("--out", help=f"picture file (default {DEFAULT_OUT}), or text file (default: only printed)")
    out.add_argument("--trace", metavar="FILM.gif", help="film of the canvas as it grows")
    out.add_argument("--scale", type=console.positive, default=4, help="enlargement of pictures (default 4)")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong without loading a model. Raises ValueError."""
    if options.region is not None and options.image is None:
        raise ValueError("--region needs the --image it is a part of")
    if options.prompt is None and options.image is None and options.label is None:
        raise ValueError("nothing is asked: give --prompt, --image or --label")
    if options.prompt is not None and not options.prompt.strip():
        raise ValueError("the prompt is empty; say what to draw, e.g. --prompt 'a red apple'")
    if options.image is not None and options.region is None and options.prompt is not None:
        raise ValueError("--image with --prompt needs --region x0,y0,x1,y1, the box to repaint")
    if options.image is not None and not Path(options.image).is_file():
        raise ValueError(f"no image at {options.image}")
    if options.region is not None:
        parse_region(options.region)
    if options.trace is not None and Path(options.trace).suffix.lower() != ".gif":
        raise ValueError(f"--trace {options.trace}: a film is a .gif")
    if not (Path(options.model) / "config.json").is_file():
        raise ValueError(f"no model at {options.model} (no config.json there); train one or give another --model")


def parse_region(text: str) -> tuple[int, int, int, int]:
    """ "x0,y0,x1,y1" -> four whole numbers with x0 < x1 and y0 < y1. Raises ValueError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.removeprefix("-").isdecimal() for part in parts):
        raise ValueError(f"--region {text!r} must be four whole numbers x0,y0,x1,y1")
    x0, y0, x1, y1 = (int(part) for part in parts)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"--region {text!r} is empty: x0 must be below x1, y0 below y1")
    return x0, y0, x1, y1


def parse_sampler(words: list[str] | None) -> tuple[str | None, dict[str, str]]:
    """["remdm", "eta=0.3"] -> its name and options. Raises ValueError on an unknown name or a word without =."""
    if not words:
        return None, {}
    name, *rest = words
    if name not in console.PLANS:
        raise ValueError(f"unknown sampler {name!r}; --sampler list prints them")
    for word in rest:
        if "=" not in word:
            raise ValueError(f"--sampler {name}: {word!r} is not key=value")
    return name, dict(word.split("=", 1) for word in rest)


def list_samplers() -> None:
    """Print every sampler with one line."""
    from mmprime.engine.samplers import SAMPLERS, describe

    for name in SAMPLERS:
        print(f"{name:18} {describe(name)}")


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


def generate(options: argparse.Namespace) -> None:
    """Do what the command line asks. Raises ValueError for what the user can mend."""
    if options.sampler == ["list"]:
        list_samplers()
        return
    check(options)
    sampler, settings = parse_sampler(options.sampler)
    from mmprime.drawing import Draw
    from mmprime.engine import Guidance
    from mmprime.pipeline import from_pretrained

    guidance = Guidance(IMAGE_GUIDANCE if options.guidance is None else options.guidance, options.guidance_schedule)
    pipe = from_pretrained(options.model)
    pictures = pipe.canvas.has("image")
    draw = Draw(
        steps=options.steps or (16 if pictures else 64),
        plan=sampler,
        options=settings,
        guidance=None if options.guidance is None else guidance,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        trace=options.trace is not None,
    )
    if options.trace is not None and (not pictures or (options.image is not None and options.region is None)):
        raise ValueError("--trace makes a film of pictures; this request makes text")
    if options.image is not None and not pictures:
        raise ValueError(f"the model at {options.model} knows no images")
    if options.image is not None and options.region is None:
        write_captions(pipe, options, draw)
    elif pictures:
        if options.guidance is None and (options.prompt or options.label is not None or pipe.canvas.has("text")):
            draw = replace(draw, guidance=guidance)
        write_pictures(pipe, options, draw)
    else:
        write_texts(pipe, options, draw)


def write_pictures(pipe: Any, options: argparse.Namespace, draw: Any) -> None:
    """Draw or repaint, and write the sheet and the film."""
    from mmprime import rendering, vocabulary

    out = options.out or DEFAULT_OUT
    rendering.picture_format(out)
    if options.prompt is not None:
        warning = vocabulary.check_prompt(options.prompt, pipe.words)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
    if options.image is None:
        found = pipe.generate(options.prompt, options.num, draw, label=options.label)
    else:
        found = repaint(pipe, options, draw)
    frames = None
    if found.history is not None:
        frames = [rendering.partial_images(y, pipe.canvas, pipe.image_tokenizer) for y in found.history]
    rendering.save_picture(out, rendering.sheet(found.images, scale=options.scale))
    print(f"{len(found.images)} pictures in {out}; {spent(found)}")
    if frames is not None:
        rendering.save_film(options.trace, rendering.film(frames, options.scale))
        print(f"film of {len(frames)} steps in {options.trace}")


def repaint(pipe: Any, options: argparse.Namespace, draw: Any) -> Any:
    """Repaint the region of the image."""
    from mmprime import rendering

    image = rendering.load_image(options.image)
    tokenizer, size = pipe.image_tokenizer, rendering.image_size(options.image)
    box = snap_region(parse_region(options.region), size, tokenizer.grid)
    pixels = ",".join(str(edge * tokenizer.downsample) for edge in box)
    side = tokenizer.image_size
    print(f"region {options.region} of {size[0]} x {size[1]} is repainted as {pixels} of {side} x {side}: whole codes")
    found = pipe.inpaint(rendering.resize(image, side), box, options.prompt, options.num, draw)
    if options.prompt is None and found.prompts[0]:
        print(f"caption read from the image: {found.prompts[0]}")
    return found


def write_captions(pipe: Any, options: argparse.Namespace, draw: Any) -> None:
    """Read captions from the image, the one that fits best first."""
    from mmprime import rendering

    image = rendering.resize(rendering.load_image(options.image), pipe.image_tokenizer.image_size)
    found = pipe.caption(image[None], options.num, draw)
    order = pipe.caption_nats(found, seed=options.seed).argsort().tolist()
    report_texts(replace(found, texts=[found.texts[place] for place in order]), options)


def write_texts(pipe: Any, options: argparse.Namespace, draw: Any) -> None:
    """Continue the prompt, or fill its blanks."""
    if options.prompt is None:
        raise ValueError("a text model needs a --prompt")
    if "___" in options.prompt:
        found = pipe.fill_text(options.prompt, options.num, options.blank_tokens, draw)
    else:
        found = pipe.continue_text(options.prompt, options.num, options.new_tokens, draw)
    report_texts(found, options)


def report_texts(found: Any, options: argparse.Namespace) -> None:
    """Print texts, and write them where asked."""
    for text in found.texts:
        print(text)
    if options.out:
        from mmprime.files import write_text

        write_text(options.out, "\n".join(found.texts) + "\n")
    print(f"{len(found.texts)} texts; {spent(found)}", file=sys.stderr)


def spent(found: Any) -> str:
    """What it cost, in words."""
    return f"NFE {int(found.nfe.max())} each, {found.seconds:.2f} s of sampling"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(generate, parse(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
