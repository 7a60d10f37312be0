"""Draw pictures from a prompt, read captions from a picture, repaint a part of it, continue or fill a text.

    python tools/generate.py --prompt "a red apple" --num 4 --trace out/film.gif        pictures, and how they grew
    python tools/generate.py --image out/sample.png                                     captions
    python tools/generate.py --image out/sample.png --region 0,0,32,32 --prompt "..."   repaint a box
    python tools/generate.py --prompt "a red apple" --pause-at 8                        half a run: look at it, then
    python tools/generate.py --resume-from out/sample.safetensors                       finish it
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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask = parser.add_argument_group("what is asked")
    ask.add_argument(
        "--prompt", help="what to draw; for a text model the text to continue, or to fill where it has ___"
    )
    ask.add_argument("--label", type=console.whole, help="class to draw, for a class-conditional model")
    ask.add_argument("--image", help="a picture: captions are written, or with --region a part of it is repainted")
    ask.add_argument(
        "--resume-from",
        metavar="RUN.safetensors",
        help="finish what --pause-at left; --prompt and a box as --region (drawn again) change it",
    )
    ask.add_argument(
        "--region", nargs="+", action="append", default=[], metavar=("x0,y0,x1,y1", "key=value"),
        help="box in pixels of --image to repaint, x1 and y1 excluded; with key=value words a region with rules of its"
        " own, e.g. --region box=0,0,32,64 window=0,0.5 order=halton (may be repeated)",
    )  # fmt: skip
    ask.add_argument("--regions", metavar="FILE", help="YAML or JSON list of regions with their rules")
    ask.add_argument(
        "--model", default=console.DEFAULT_MODEL, help="model folder (default: the shipped text-image model)"
    )
    console.add_sampling(parser.add_argument_group("how"), num=4)
    parser.add_argument(
        "--pause-at", metavar="STEP|REGION", help="stop after a step, or when a region is done, and write what is known"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--out", help=f"picture file (default {DEFAULT_OUT}), or text file (default: only printed)")
    out.add_argument("--trace", metavar="FILM.gif", help="film of the canvas as it grows")
    out.add_argument("--scale", type=console.positive, default=4, help="enlargement of pictures (default 4)")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong without loading a model. Raises ValueError."""
    if options.box is not None and options.image is None and options.resume_from is None:
        raise ValueError("--region with a box alone needs the --image it is a part of; rules are key=value words")
    if options.resume_from is not None:
        check_resumed(options)
    elif options.prompt is None and options.image is None and options.label is None:
        raise ValueError("nothing is asked: give --prompt, --image or --label")
    if options.prompt is not None and not options.prompt.strip():
        raise ValueError("the prompt is empty; say what to draw, e.g. --prompt 'a red apple'")
    if options.image is not None and options.box is None and options.prompt is not None:
        raise ValueError("--image with --prompt needs --region x0,y0,x1,y1, the box to repaint")
    if options.image is not None and not Path(options.image).is_file():
        raise ValueError(f"no image at {options.image}")
    if options.box is not None:
        parse_box(options.box)
    if options.trace is not None and Path(options.trace).suffix.lower() != ".gif":
        raise ValueError(f"--trace {options.trace}: a film is a .gif")
    console.require_model(options.model)


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
        raise ValueError("a resumed run keeps its regions; --region takes a box alone, which is drawn again")


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


def generate(options: argparse.Namespace) -> None:
    """Do what the command line asks. Raises ValueError for what the user can mend."""
    if options.sampler == ["list"]:
        from mmprime.engine.samplers import listing

        print(listing())
        return
    take_box(options)
    check(options)
    settings = console.draw_settings(options)
    from mmprime.drawing import Draw
    from mmprime.engine import Guidance
    from mmprime.pipeline import from_pretrained

    guidance = Guidance(
        console.IMAGE_GUIDANCE if options.guidance is None else options.guidance, options.guidance_schedule
    )
    pipe = from_pretrained(options.model)
    if options.resume_from is not None:
        resume(pipe, options)
        return
    specs = region_specs(options)
    if specs:
        settings = with_regions(settings, placed(pipe, specs, options))
    pictures = pipe.canvas.has("image")
    draw = Draw(
        steps=options.steps or (16 if pictures else 64),
        trace=options.trace is not None,
        pause=pause_at(options),
        **settings,
    )
    if options.trace is not None and (not pictures or (options.image is not None and options.box is None)):
        raise ValueError("--trace makes a film of pictures; this request makes text")
    if options.image is not None and not pictures:
        raise ValueError(f"the model at {options.model} knows no images")
    if options.image is not None and options.box is None:
        write_captions(pipe, options, draw)
    elif pictures:
        if options.guidance is None and (options.prompt or options.label is not None or pipe.canvas.has("text")):
            draw = replace(draw, guidance=guidance)
        write_pictures(pipe, options, draw)
    else:
        write_texts(pipe, options, draw)


def region_specs(options: argparse.Namespace) -> list[Any]:
    """The regions with rules, of the file and of the command line."""
    if not options.regions and not options.region:
        return []
    from mmprime.regions import parse_region, read_regions

    found = read_regions(options.regions) if options.regions else []
    return found + [parse_region(words, f"region {len(found) + n + 1}") for n, words in enumerate(options.region)]


def with_regions(settings: dict[str, Any], parts: tuple[Any, ...]) -> dict[str, Any]:
    """Sample by regions. Raises ValueError on a sampler beside them."""
    name = settings["plan"]
    if name not in (None, "regions"):
        raise ValueError(f"each region has an order of its own; leave out --sampler {name}, or give order={name}")
    return {**settings, "plan": "regions", "options": {**settings["options"], "parts": parts}}


def placed(pipe: Any, specs: list[Any], options: argparse.Namespace) -> tuple[Any, ...]:
    """The regions on the canvas."""
    from mmprime.holes import with_holes
    from mmprime.regions import place

    holes = {}
    if options.image is None and not pipe.canvas.has("image") and any(spec.words or spec.blanks for spec in specs):
        holes = with_holes(options.prompt, pipe.text_tokenizer, options.blank_tokens, rewritten(specs)).stands_for
    return tuple(place(spec, pipe.canvas, pipe.image_tokenizer, holes) for spec in specs)


def rewritten(specs: list[Any]) -> tuple[str, ...]:
    """The words that regions name, each once."""
    return tuple(dict.fromkeys(word for spec in specs for word in spec.words))


def resume(pipe: Any, options: argparse.Namespace) -> None:
    """Finish a paused run, as it is or after an edit."""
    from mmprime.pausing import load_paused
    from mmprime.regions import snap

    paused = load_paused(options.resume_from, pipe.weights)
    hide = None
    if options.box is not None:
        tokenizer = pipe.image_tokenizer
        if tokenizer is None:
            raise ValueError("--region is a box of a picture, and this model knows none")
        hide = pipe.canvas.mask(
            "image", box=snap(parse_box(options.box), tokenizer.downsample, tokenizer.grid, "again")
        )
    found = pipe.resume(paused, hide, options.prompt, pause_at(options), options.trace is not None)
    if hasattr(found, "images"):
        report_pictures(pipe, options, found)
    else:
        report_texts(pipe, found, options)


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
    report_pictures(pipe, options, found)


def report_pictures(pipe: Any, options: argparse.Namespace, found: Any) -> None:
    """Write the sheet, the film, and what to go on from."""
    from mmprime import rendering

    out = options.out or DEFAULT_OUT
    frames = None
    if found.history is not None:
        frames = [rendering.partial_images(y, pipe.canvas, pipe.image_tokenizer) for y in found.history]
    rendering.save_picture(out, rendering.sheet(found.images, scale=options.scale))
    print(f"{len(found.images)} pictures in {out}; {spent(found)}")
    if frames is not None:
        rendering.save_film(options.trace, rendering.film(frames, options.scale))
        print(f"film of {len(frames)} steps in {options.trace}")
    report_pause(pipe, options, found)


def pause_at(options: argparse.Namespace) -> int | str | None:
    """The step or the region to stop after."""
    text = options.pause_at
    return console.positive(text) if text and text.isdecimal() else text


def report_pause(pipe: Any, options: argparse.Namespace, found: Any) -> None:
    """Write what --pause-at left, and say how to go on."""
    if options.pause_at is None:
        return
    if found.paused is None:
        print(f"the run was over before --pause-at {options.pause_at}: nothing is left to resume")
        return
    from mmprime.pausing import save_paused

    file = Path(options.out or DEFAULT_OUT).with_suffix(".safetensors")
    save_paused(file, found.paused, pipe.weights)
    print(f"paused after step {found.paused.step}; go on with --resume-from {file}")


def repaint(pipe: Any, options: argparse.Namespace, draw: Any) -> Any:
    """Repaint the region of the image."""
    from mmprime import rendering

    image = rendering.load_image(options.image)
    tokenizer, size = pipe.image_tokenizer, rendering.image_size(options.image)
    box = snap_region(parse_box(options.box), size, tokenizer.grid)
    pixels = ",".join(str(edge * tokenizer.downsample) for edge in box)
    side = tokenizer.image_size
    print(f"region {options.box} of {size[0]} x {size[1]} is repainted as {pixels} of {side} x {side}: whole codes")
    found = pipe.inpaint(rendering.resize(image, side), box, options.prompt, options.num, draw)
    if options.prompt is None and found.prompts[0]:
        print(f"caption read from the image: {found.prompts[0]}")
    return found


def write_captions(pipe: Any, options: argparse.Namespace, draw: Any) -> None:
    """Read captions from the image, the one that fits best first."""
    from mmprime import rendering

    image = rendering.resize(rendering.load_image(options.image), pipe.image_tokenizer.image_size)
    found = pipe.caption(image[None], options.num, draw)
    order = range(len(found.texts))
    if found.paused is None:
        order = pipe.caption_nats(found, seed=options.seed).argsort().tolist()
    report_texts(pipe, replace(found, texts=[found.texts[place] for place in order]), options)


def write_texts(pipe: Any, options: argparse.Namespace, draw: Any) -> None:
    """Continue the prompt, or fill its blanks."""
    if options.prompt is None:
        raise ValueError("a text model needs a --prompt")
    rewrite = rewritten(region_specs(options))
    if "___" in options.prompt or rewrite:
        found = pipe.fill_text(options.prompt, options.num, options.blank_tokens, draw, rewrite)
    else:
        found = pipe.continue_text(options.prompt, options.num, options.new_tokens, draw)
    report_texts(pipe, found, options)


def report_texts(pipe: Any, found: Any, options: argparse.Namespace) -> None:
    """Print texts, and write them where asked."""
    for text in found.texts:
        print(text)
    if options.out:
        from mmprime.files import write_text

        write_text(options.out, "\n".join(found.texts) + "\n")
    print(f"{len(found.texts)} texts; {spent(found)}", file=sys.stderr)
    report_pause(pipe, options, found)


def spent(found: Any) -> str:
    """What it cost, in words."""
    return f"NFE {int(found.nfe.max())} each, {found.seconds:.2f} s of sampling"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(generate, parse(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
