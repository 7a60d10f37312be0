"""Draw pictures from a prompt, read captions from a picture, repaint a part of it, continue or fill a text.

    python tools/generate.py --prompt "a red apple" --num 4 --trace out/film.gif        pictures, and how they grew
    python tools/generate.py --image out/sample.png                                     captions
    python tools/generate.py --image out/sample.png --region 0,0,32,32 --prompt "..."   repaint a box
    python tools/generate.py --prompt "a red apple" --pause-at 8                        half a run: look at it, then
    python tools/generate.py --resume-from out/sample.safetensors                       finish it
    python tools/generate.py --model assets/models/sotu --prompt "The state of the"     continue a text
    python tools/generate.py --model assets/models/sotu --prompt "a ___ of the Union"   fill ___

Exit codes: 0 done, 2 a mistake in what was asked (one line; no file is written); all of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

from . import console  # noqa: E402
from .generation_request import DEFAULT_OUT, check, parse, parse_box, snap_region, take_box  # noqa: E402


def generate(options: argparse.Namespace) -> None:
    """Do what the command line asks. Raises ValueError for what the user can mend."""
    if options.sampler == ["list"]:
        from mmprime.engine.samplers.registry import listing

        print(listing())
        return
    take_box(options)
    check(options)
    settings = console.draw_settings(options)
    from mmprime.engine import Guidance
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.generation.sampling import Draw, warning

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
        progress=True,
        pause=options.pause_at,
        **settings,
    )
    console.warn(warning(draw, pipe.canvas, pipe.trained_on))
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
    from mmprime.generation.regions import parse_region, read_regions

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
    from mmprime.generation.infilling import with_holes
    from mmprime.generation.regions import place

    holes = {}
    if options.image is None and not pipe.canvas.has("image") and any(spec.words or spec.blanks for spec in specs):
        holes = with_holes(options.prompt, pipe.text_tokenizer, options.blank_tokens, rewritten(specs)).stands_for
    return tuple(place(spec, pipe.canvas, pipe.image_tokenizer, holes) for spec in specs)


def rewritten(specs: list[Any]) -> tuple[str, ...]:
    """The words that regions name, each once."""
    return tuple(dict.fromkeys(word for spec in specs for word in spec.words))


def resume(pipe: Any, options: argparse.Namespace) -> None:
    """Finish a paused run, as it is or after an edit."""
    from mmprime.generation.pausing import load_paused
    from mmprime.generation.regions import snap

    paused = load_paused(options.resume_from, pipe.weights)
    hide = None
    if options.box is not None:
        tokenizer = pipe.image_tokenizer
        if tokenizer is None:
            raise ValueError("--region is a box of a picture, and this model knows none")
        hide = pipe.canvas.mask(
            "image", box=snap(parse_box(options.box), tokenizer.downsample, tokenizer.grid, "again")
        )
    found = pipe.resume(paused, hide, options.prompt, options.pause_at, options.trace is not None)
    if hasattr(found, "images"):
        report_pictures(pipe, options, found)
    else:
        report_texts(pipe, found, options)


def write_pictures(pipe: Any, options: argparse.Namespace, draw: Any) -> None:
    """Draw or repaint, and write the sheet and the film."""
    from mmprime.generation import images as rendering
    from mmprime.generation import prompts as vocabulary

    out = options.out or DEFAULT_OUT
    rendering.picture_format(out)
    if options.prompt is not None:
        console.warn(vocabulary.check_prompt(options.prompt, pipe.words))
    if options.label is not None:
        options.label = vocabulary.class_label(options.label, pipe.classes, pipe.model.config.num_classes)
        print(f"class {options.label}" + (f": {pipe.classes[options.label]}" if pipe.classes else ""))
    if options.image is None:
        found = pipe.generate(options.prompt, options.num, draw, label=options.label)
    else:
        found = repaint(pipe, options, draw)
    report_pictures(pipe, options, found)


def report_pictures(pipe: Any, options: argparse.Namespace, found: Any) -> None:
    """Write the sheet, the film, and what to go on from."""
    from mmprime.generation import images as rendering

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


def report_pause(pipe: Any, options: argparse.Namespace, found: Any) -> None:
    """Write what --pause-at left, and say how to go on."""
    if options.pause_at is None:
        return
    if found.paused is None:
        print(f"the run was over before --pause-at {options.pause_at}: nothing is left to resume")
        return
    from mmprime.generation.pausing import save_paused

    file = Path(options.out or DEFAULT_OUT).with_suffix(".safetensors")
    save_paused(file, found.paused, pipe.weights)
    print(f"paused after step {found.paused.step}; go on with --resume-from {file}")


def repaint(pipe: Any, options: argparse.Namespace, draw: Any) -> Any:
    """Repaint the region of the image."""
    from mmprime.data.pictures import picture_size
    from mmprime.generation import images as rendering

    tokenizer, size = pipe.image_tokenizer, picture_size(options.image)
    box = snap_region(parse_box(options.box), size, tokenizer.grid)
    pixels = ",".join(str(edge * tokenizer.downsample) for edge in box)
    side = tokenizer.image_size
    image = rendering.load_image(options.image, side)
    print(f"region {options.box} of {size[0]} x {size[1]} is repainted as {pixels} of {side} x {side}: whole codes")
    found = pipe.inpaint(image, box, options.prompt, options.num, draw)
    if options.prompt is None and found.prompts[0]:
        print(f"caption read from the image: {found.prompts[0]}")
    return found


def write_captions(pipe: Any, options: argparse.Namespace, draw: Any) -> None:
    """Read captions from the image, the one that fits best first."""
    from mmprime.generation import images as rendering

    image = rendering.load_image(options.image, pipe.image_tokenizer.image_size)
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
    if options.out:
        from mmprime.io import write_text

        write_text(options.out, "\n".join(found.texts) + "\n")
    for text in found.texts:
        print(text)
    print(f"{len(found.texts)} texts; {spent(found)}", file=sys.stderr)
    report_pause(pipe, options, found)


def spent(found: Any) -> str:
    """What it cost, in words."""
    return f"NFE {int(found.nfe.max())} each, {found.seconds:.2f} s of sampling"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(lambda: generate(parse(arguments, __doc__)))


if __name__ == "__main__":
    raise SystemExit(main())
