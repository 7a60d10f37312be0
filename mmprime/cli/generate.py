"""Draw pictures from a prompt, read captions from a picture, repaint a part of it, continue or fill a text.

    mmprime generate --prompt "a red apple" --num 4 --trace out/film.gif        pictures, and how they grew
    mmprime generate --prompt "a red apple" --num 1 --out out/apple.png         one plain picture
    mmprime generate --image out/apple.png                                      captions
    mmprime generate --image out/apple.png --region 0,0,128,128 --prompt "..."  repaint a box
    mmprime generate --prompt "a red apple" --pause-at 8                        half a run: look at it, then
    mmprime generate --resume-from out/sample.safetensors                       finish it
    mmprime generate --model assets/models/english --prompt "The state of the"  continue a text
    mmprime generate --model assets/models/english --prompt "a ___ of the Union"   fill ___

Exit codes: 0 done, 2 a mistake in what was asked (one line; no file is written); all of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmprime.io import warn

from . import console, sampling
from .generation_request import DEFAULT_OUT, check, parse, parse_box, snap_region, take_box

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.engine import Region
    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.regions import RegionSpec
    from mmprime.generation.sampling import Pictures, Result, SamplingConfig, Texts


def generate(options: argparse.Namespace) -> None:
    """Do what the command line asks. Raises ValueError for what the user can mend."""
    if sampling.listed_samplers(options.sampler):
        return
    take_box(options)
    check(options)
    given = sampling.given_sampling(options)
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.generation.sampling import half_known_warning

    specs = region_specs(options)
    pipe = from_pretrained(options.model)
    if options.resume_from is not None:
        resume(pipe, options)
        return
    pictures = pipe.canvas.has("image")
    reads = options.image is not None and options.box is None
    if options.trace is not None and (not pictures or reads):
        raise ValueError("--trace makes a film of pictures; this request makes text")
    if options.image is not None and not pictures:
        raise ValueError(f"the model at {options.model} knows no images")
    span = "text" if reads or not pictures else "image"
    config = replace(
        given(pipe.config_for(span)), trace=options.trace is not None, progress=True, pause=options.pause_at
    )
    if specs:
        config = with_regions(config, located(pipe, specs, options), options)
    warn(half_known_warning(config, pipe.canvas, pipe.card.trained_on))
    if reads:
        write_captions(pipe, options, config)
    elif pictures:
        write_pictures(pipe, options, config)
    else:
        write_texts(pipe, options, config, specs)


def region_specs(options: argparse.Namespace) -> list[RegionSpec]:
    """The regions with rules, of the file and of the command line."""
    if not options.regions and not options.region:
        return []
    from mmprime.generation.regions import parse_region, read_regions

    specs = read_regions(options.regions) if options.regions else []
    return specs + [parse_region(words, f"region {len(specs) + n + 1}") for n, words in enumerate(options.region)]


def with_regions(config: SamplingConfig, parts: tuple[Region, ...], options: argparse.Namespace) -> SamplingConfig:
    """Sample by regions. Raises ValueError on another sampler beside them."""
    from mmprime.engine.samplers import Regions

    if not options.sampler:
        return replace(config, sampler=Regions(parts=parts))
    if not isinstance(config.sampler, Regions):
        name = options.sampler[0]
        raise ValueError(f"each region has an order of its own; leave out --sampler {name}, or give order={name}")
    return replace(config, sampler=replace(config.sampler, parts=parts))


def located(pipe: Pipeline, specs: list[RegionSpec], options: argparse.Namespace) -> tuple[Region, ...]:
    """The regions on the canvas."""
    from mmprime.generation.infilling import with_blanks
    from mmprime.generation.regions import locate

    stands_for, tokenizer = {}, pipe.text_tokenizer
    if tokenizer and not pipe.canvas.has("image") and any(spec.words or spec.blanks for spec in specs):
        stands_for = with_blanks(options.prompt or "", tokenizer, options.blank_tokens, rewritten(specs)).stands_for
    return tuple(locate(spec, pipe.canvas, pipe.image_tokenizer, stands_for) for spec in specs)


def rewritten(specs: list[RegionSpec]) -> tuple[str, ...]:
    """The words that regions name, each once."""
    return tuple(dict.fromkeys(word for spec in specs for word in spec.words))


def resume(pipe: Pipeline, options: argparse.Namespace) -> None:
    """Finish a paused run, as it is or after an edit."""
    from mmprime.generation.pausing import load_paused
    from mmprime.generation.regions import snap
    from mmprime.generation.sampling import Pictures

    paused = load_paused(options.resume_from, pipe.card.weights)
    remask = None
    if options.box is not None:
        tokenizer = pipe.image_tokenizer
        if tokenizer is None:
            raise ValueError("--region is a box of a picture, and this model knows none")
        box = snap(parse_box(options.box), tokenizer.downsample, tokenizer.grid, "again")
        remask = pipe.canvas.mask("image", box=box)
    result = pipe.resume(paused, remask, options.prompt, options.pause_at, options.trace is not None)
    if isinstance(result, Pictures):
        report_pictures(pipe, options, result)
    else:
        report_texts(pipe, options, result)


def write_pictures(pipe: Pipeline, options: argparse.Namespace, config: SamplingConfig) -> None:
    """Draw or repaint, and write the picture, the sheet or the film."""
    from mmprime.generation import images, prompts

    images.picture_format(options.out or DEFAULT_OUT)
    if options.prompt is not None:
        warn(prompts.check_prompt(options.prompt, pipe.card.words))
    if options.label is not None:
        classes = pipe.card.classes
        options.label = prompts.class_label(options.label, classes, pipe.model.config.num_classes)
        print(f"class {options.label}" + (f": {classes[options.label]}" if classes else ""))
    if options.image is None:
        result = pipe.generate(options.prompt, options.num, config, label=options.label)
    else:
        result = repaint(pipe, options, config)
    report_pictures(pipe, options, result)


def report_pictures(pipe: Pipeline, options: argparse.Namespace, result: Pictures) -> None:
    """Write the picture or the sheet, the film, and what to go on from."""
    from mmprime.generation import images

    out, tokenizer = options.out or DEFAULT_OUT, pipe.image_tokenizer
    assert tokenizer is not None
    count = len(result.images)
    images.save_picture(out, images.sheet(result.images, scale=options.scale))
    print(f"{count} {'picture' if count == 1 else 'pictures'} in {out}; {spent(result)}")
    if result.trace is not None:
        frames = [images.partial_images(y, pipe.canvas, tokenizer) for y in result.trace.y]
        images.save_film(options.trace, images.film(frames, options.scale))
        print(f"film of {len(frames)} steps in {options.trace}")
    report_pause(pipe, options, result)


def report_pause(pipe: Pipeline, options: argparse.Namespace, result: Result) -> None:
    """Write what --pause-at left, and say how to go on."""
    if options.pause_at is None:
        return
    if result.paused is None:
        print(f"the run was over before --pause-at {options.pause_at}: nothing is left to resume")
        return
    from mmprime.generation.pausing import save_paused

    file = Path(options.out or DEFAULT_OUT).with_suffix(".safetensors")
    save_paused(file, result.paused, pipe.card.weights)
    print(f"paused after step {result.paused.step}; go on with --resume-from {file}")


def picture(pipe: Pipeline, file: str) -> Tensor:
    """The picture that --image names, of the model's size; a warning where it can hardly be meant so."""
    from mmprime.generation import images

    assert pipe.image_tokenizer is not None
    side = pipe.image_tokenizer.image_size
    warn(images.shape_warning(file, side))
    return images.load_image(file, side)


def repaint(pipe: Pipeline, options: argparse.Namespace, config: SamplingConfig) -> Pictures:
    """Repaint the region of the image."""
    from mmprime.data.pictures import picture_size

    tokenizer, size = pipe.image_tokenizer, picture_size(options.image)
    assert tokenizer is not None
    box = snap_region(parse_box(options.box), size, tokenizer.grid)
    pixels = ",".join(str(edge * tokenizer.downsample) for edge in box)
    image, side = picture(pipe, options.image), tokenizer.image_size
    print(f"region {options.box} of {size[0]} x {size[1]} is repainted as {pixels} of {side} x {side}: whole codes")
    result = pipe.inpaint(image, box, options.prompt, options.num, config)
    if options.prompt is None and result.prompts[0]:
        print(f"caption read from the image: {result.prompts[0]}")
    return result


def write_captions(pipe: Pipeline, options: argparse.Namespace, config: SamplingConfig) -> None:
    """Read captions from the image, the one that fits best first."""
    result = pipe.caption(picture(pipe, options.image)[None], options.num, config)
    if result.paused is None:
        order = pipe.caption_nats(result, seed=options.seed).argsort().tolist()
        result = replace(result, texts=[result.texts[index] for index in order])
    report_texts(pipe, options, result)


def write_texts(pipe: Pipeline, options: argparse.Namespace, config: SamplingConfig, specs: list[RegionSpec]) -> None:
    """Continue the prompt, or fill its blanks."""
    if options.prompt is None:
        raise ValueError("a text model needs a --prompt")
    rewrite = rewritten(specs)
    if "___" in options.prompt or rewrite:
        result = pipe.fill_text(options.prompt, options.num, options.blank_tokens, config, rewrite)
    else:
        result = pipe.continue_text(options.prompt, options.num, options.new_tokens, config)
    report_texts(pipe, options, result)


def report_texts(pipe: Pipeline, options: argparse.Namespace, result: Texts) -> None:
    """Print texts, and write them where asked."""
    if options.out:
        from mmprime.io import write_text

        write_text(options.out, "\n".join(result.texts) + "\n")
    for text in result.texts:
        print(text)
    print(f"{len(result.texts)} texts; {spent(result)}", file=sys.stderr)
    report_pause(pipe, options, result)


def spent(result: Result) -> str:
    """What it cost, in words."""
    return f"NFE {int(result.nfe.max())} each, {result.seconds:.2f} s of sampling"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(lambda: generate(parse(arguments, __doc__)))
