"""One traced run as files: pictures as film strip, film and map of the reveal order; texts as a page; both with curves
of entropy and confidence and a trace.json."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.sampling import Draw, Pictures, Result, Texts
    from mmprime.generation.trace import Course
    from mmprime.generation.trace_page import Token
    from mmprime.tokenizers import TextTokenizer

MOST = 16  # examples: the figures show each of them
FORMAT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    ask = parser.add_argument_group("what is asked")
    ask.add_argument(
        "--prompt",
        type=console.sentence,
        help="what to draw; for a text model the text to continue, or to fill where it has ___",
    )
    ask.add_argument(
        "--label",
        type=console.sentence,
        metavar="CLASS",
        help="name or number of a class, for a class-conditional model",
    )
    ask.add_argument(
        "--model", default=console.DEFAULT_MODEL, help="model folder (default: the shipped text-image model)"
    )
    console.add_sampling(parser.add_argument_group("how"), num=1)
    out = parser.add_argument_group("output")
    out.add_argument(
        "--out",
        type=console.out_folder,
        metavar="DIR",
        default="out/trace",
        help="folder to write to (default out/trace)",
    )
    out.add_argument("--scale", type=console.positive, default=2, help="enlargement of pictures (default 2)")


def run(options: argparse.Namespace) -> None:
    """Draw, and write the files. Raises ValueError for what the user can mend; then no file is written."""
    if options.sampler == ["list"]:
        from mmprime.engine.samplers.registry import listing

        print(listing())
        return
    _check(options)
    settings = console.draw_settings(options)
    from mmprime.evaluation.plots import require_plots
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.generation.sampling import Draw, warning

    out = Path(options.out)
    require_plots(out / "entropy.png")
    pipe = from_pretrained(options.model)
    pictures = pipe.canvas.has("image")
    if pictures and options.guidance is None:
        from mmprime.engine import Guidance

        settings["guidance"] = Guidance(console.IMAGE_GUIDANCE, options.guidance_schedule)
    draw = Draw(steps=options.steps or (16 if pictures else 64), trace=True, progress=True, **settings)
    console.warn(warning(draw, pipe.canvas, pipe.trained_on))
    found = _pictures(pipe, options, draw) if pictures else _texts(pipe, options, draw)
    courses = _courses(found, pipe)
    about = _about(pipe, draw, options)
    written = [_write_curve(out / "entropy.png", courses), _write_json(out / "trace.json", found, pipe, about)]
    if pictures:
        written += _write_pictures(out, found, pipe, options)
    else:
        written.append(_write_page(out / "trace.html", found, pipe, about, courses))
    steps, nfe = len(courses[0].mean), int(found.nfe.max())
    print(f"{len(found.y)} traced, {steps} steps, NFE {nfe} each, {found.seconds:.2f} s of sampling")
    for file in sorted(written):
        print(file)


def _check(options: argparse.Namespace) -> None:
    if options.prompt is None and options.label is None:
        raise ValueError("nothing is asked: give --prompt or --label")
    if options.prompt is not None and not options.prompt.strip():
        raise ValueError("the prompt is empty; say what to draw, e.g. --prompt 'a red apple'")
    if options.num > MOST:
        raise ValueError(f"--num {options.num}: at most {MOST} are traced at once, each is shown by itself")
    if Path(options.out).exists() and not Path(options.out).is_dir():
        raise ValueError(f"--out {options.out} is a file; give a folder")
    console.require_model(options.model)


def _pictures(pipe: Pipeline, options: argparse.Namespace, draw: Draw) -> Pictures:
    from mmprime.generation import prompts as vocabulary

    if options.prompt is not None:
        console.warn(vocabulary.check_prompt(options.prompt, pipe.words))
    return pipe.generate(options.prompt, options.num, draw, label=options.label)


def _texts(pipe: Pipeline, options: argparse.Namespace, draw: Draw) -> Texts:
    if options.prompt is None or options.label is not None:
        raise ValueError("a text model needs a --prompt, and has no --label")
    if "___" in options.prompt:
        return pipe.fill_text(options.prompt, options.num, options.blank_tokens, draw)
    return pipe.continue_text(options.prompt, options.num, options.new_tokens, draw)


def _courses(found: Result, pipe: Pipeline) -> list[Course]:
    """Entropy and confidence along the steps."""
    from mmprime.generation.trace import course

    assert found.history is not None
    assert found.entropy is not None
    assert found.confidence is not None
    steps = len(found.history)
    return [course(values, found.rank, pipe.canvas, steps) for values in (found.entropy, found.confidence)]


# ---------------------------------------------------------------- files


def _write_curve(file: Path, courses: Sequence[Course]) -> Path:
    from mmprime.evaluation.plots import Line, draw_panels

    names = ("mean entropy of the draws, nats", "mean confidence of the draws")
    panels = []
    for name, course in zip(names, courses):
        steps = [k for k, value in enumerate(course.mean.tolist(), 1) if not math.isnan(value)]
        error = [None if math.isnan(course.error[k - 1]) else float(course.error[k - 1]) for k in steps]
        panels.append((name, [Line("", steps, [float(course.mean[k - 1]) for k in steps], error)]))
    draw_panels(file, panels, "step")
    return file


def _write_pictures(out: Path, found: Any, pipe: Pipeline, options: argparse.Namespace) -> list[Path]:
    import torch

    from mmprime.evaluation.plots import draw_maps
    from mmprime.generation import images as rendering
    from mmprime.generation.trace import reveal_maps

    tokenizer = pipe.image_tokenizer
    assert tokenizer is not None
    frames = [rendering.partial_images(y, pipe.canvas, tokenizer) for y in found.history]
    labels = [f"step {k}" for k in range(1, len(frames) + 1)] * len(found.y)
    strip = rendering.sheet(torch.stack(frames, 1).flatten(0, 1), labels, len(frames), options.scale)
    rendering.save_picture(out / "strip.png", strip)
    rendering.save_film(out / "film.gif", rendering.film(frames, options.scale))
    titles = ["mean of the digits", *(f"digit {s + 1}" for s in range(pipe.canvas.span("image").codec.num_digits))]
    rows = []
    for number, maps in enumerate(reveal_maps(found.rank, pipe.canvas).tolist(), 1):
        start = f"{number}: " if len(found.y) > 1 else ""
        rows.append([(start + title, map_) for title, map_ in zip(titles, maps)])
    draw_maps(out / "order.png", rows, "revealed at step")
    return [out / "strip.png", out / "film.gif", out / "order.png"]


def _write_page(file: Path, found: Any, pipe: Pipeline, about: dict[str, Any], courses: Sequence[Course]) -> Path:
    from mmprime.generation.trace_page import page
    from mmprime.io import write_text

    nats, sure = (_in_words(course) for course in courses)
    rows = list(zip(range(1, len(nats) + 1), nats, sure))
    facts = {key.replace("_", " "): value for key, value in about.items() if key != "prompt" and value is not None}
    title = f"How “{about['prompt']}” was completed"
    curve = (file.parent / "entropy.png").read_bytes()
    write_text(file, page(title, facts, text_tokens(found, pipe), len(rows), rows, curve))
    return file


def _in_words(course: Course) -> list[str]:
    """Each step's mean ± its standard error, where there is one."""
    return [
        "nothing drawn" if math.isnan(mean) else f"{mean:.3f}" if math.isnan(error) else f"{mean:.3f} ± {error:.3f}"
        for mean, error in zip(course.mean.tolist(), course.error.tolist())
    ]


def text_tokens(found: Result, pipe: Pipeline) -> list[list[Token]]:
    """The tokens of each text for the page; those that are never drawn are left out."""
    import torch

    from mmprime.generation.trace import frames, likeliest, record
    from mmprime.generation.trace_page import Digit, Token

    states, tokenizer = frames(found), pipe.text_tokenizer
    assert tokenizer is not None
    codes = torch.stack([likeliest(pipe.model, pipe.canvas, y, "text") for y in states])
    known = pipe.canvas.view(states, "text") >= 0
    texts = []
    for b, entry in enumerate(record(found, pipe.canvas)):
        own = entry["spans"]["text"]
        columns = [own[name] for name in ("digits", "rank", "entropy", "confidence")]
        texts.append(
            [
                Token([Digit(*digit) for digit in zip(*token)], _changes(codes[:, b, i], known[:, b, i], tokenizer))
                for i, token in enumerate(zip(*columns))
                if min(token[1]) >= 0
            ]
        )
    return texts


def _changes(codes: Tensor, known: Tensor, tokenizer: TextTokenizer) -> list[tuple[int, str, str]]:
    """Of one token: its likeliest codes (K + 1,) and which digits are known (K + 1, S) as what `Token` holds."""
    from mmprime.generation.trace_page import HIDDEN

    changes: list[tuple[int, str, str]] = []
    for step, (code, digits) in enumerate(zip(codes.tolist(), known.int().tolist())):
        text = HIDDEN if code < 0 else tokenizer.piece(code).replace("\n", "↵\n")
        state = ("".join(map(str, digits)), text)
        if not changes or changes[-1][1:] != state:
            changes.append((step, *state))
    return changes


def _about(pipe: Pipeline, draw: Draw, options: argparse.Namespace) -> dict[str, Any]:
    """What was asked of which model."""
    from mmprime.evaluation.provenance import model_hash

    settings = " ".join(f"{key}={value}" for key, value in draw.options.items())
    return {
        "prompt": options.prompt,
        "label": options.label,
        "model": Path(options.model).name,
        "model_hash": model_hash(options.model),
        "sampler": f"{draw.plan or pipe.law} {settings}".strip(),
        "steps": draw.steps,
        "guidance": None if draw.guidance is None else str(draw.guidance),
        "temperature": draw.temperature,
        "top_p": draw.top_p,
        "seed": draw.seed,
        "command": options.command_line,
    }


def _write_json(file: Path, found: Result, pipe: Pipeline, about: dict[str, Any]) -> Path:
    from mmprime.evaluation.provenance import versions
    from mmprime.generation.trace import record
    from mmprime.io import write_text

    assert found.history is not None
    examples = record(found, pipe.canvas)
    for example, text in zip(examples, getattr(found, "texts", [])):
        example["text"] = text
    origin = {"format": FORMAT, **about, "versions": versions(), "num_steps": len(found.history)}
    write_text(file, json.dumps({**origin, "examples": examples}, ensure_ascii=False, allow_nan=False) + "\n")
    return file
