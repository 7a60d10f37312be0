"""Sample once and show how it came about: what became known when, and how sure the model was of it.

    mmprime trace --prompt "a red apple" --out out/trace
        strip.png (a frame a step), film.gif, order.png (the step at which each digit became known, as a map)
    mmprime trace --model assets/models/english --prompt "The state of the" --out out/trace_text
        trace.html: a page with a slider of steps; also for a text with ___ to fill

Both write entropy.png (entropy and confidence along the steps) and trace.json (rank, entropy and confidence of every
digit). Needs matplotlib (the extra `plots`). Exit codes: 0 done, 2 a mistake in what was asked (one line, no file); all
of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmprime.generation.prompts import require_prompt
from mmprime.io import warn, write_text

from . import console, sampling
from .generation_request import add_prompt

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.sampling import Pictures, Result, SamplingConfig, Texts
    from mmprime.generation.trace import StepCurve

MOST = 16  # examples: the figures show each of them
FORMAT = 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_prompt(parser.add_argument_group("what is asked"))
    sampling.add_sampling(parser.add_argument_group("how"), num=1)
    out = parser.add_argument_group("output")
    out.add_argument(
        "--out", type=console.out_folder, metavar="DIR", default="out/trace",
        help="folder to write to (default out/trace)",
    )  # fmt: skip
    out.add_argument("--scale", type=console.positive, default=2, help="enlargement of pictures (default 2)")
    return parser.parse_args(arguments)


def trace(options: argparse.Namespace, command: str) -> None:
    """Sample, and write the files. Raises ValueError for what the user can mend; then no file is written."""
    if sampling.listed_samplers(options.sampler):
        return
    _check(options)
    given = sampling.given_sampling(options)
    from mmprime.evaluation.plots import require_plots
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.generation.sampling import half_known_warning
    from mmprime.generation.trace import step_curves

    out = Path(options.out)
    require_plots(out / "entropy.png")
    pipe = from_pretrained(options.model)
    pictures = pipe.canvas.has("image")
    config = replace(given(pipe.config_for("image" if pictures else "text")), trace=True, progress=True)
    warn(half_known_warning(config, pipe.canvas, pipe.card.trained_on))
    result: Result = _pictures(pipe, options, config) if pictures else _texts(pipe, options, config)
    curves = step_curves(result, pipe.canvas)
    about = {**_about(pipe, config, options), "command": command}
    written = [_write_curves(out / "entropy.png", curves), _write_json(out / "trace.json", result, pipe, about)]
    if pictures:
        written += _write_pictures(out, result, pipe, options)
    else:
        written.append(_write_page(out / "trace.html", result, pipe, about, curves))
    steps, nfe = len(curves[0].mean), int(result.nfe.max())
    print(f"{len(result.y)} traced, {steps} steps, NFE {nfe} each, {result.seconds:.2f} s of sampling")
    for file in sorted(written):
        print(file)


def _check(options: argparse.Namespace) -> None:
    if options.prompt is None and options.label is None:
        raise ValueError("nothing is asked: give --prompt or --label")
    if options.prompt is not None:
        require_prompt(options.prompt)
    if options.num > MOST:
        raise ValueError(f"--num {options.num}: at most {MOST} are traced at once, each is shown by itself")
    if Path(options.out).exists() and not Path(options.out).is_dir():
        raise ValueError(f"--out {options.out} is a file; give a folder")
    options.model = console.model_folder(options.model)


def _pictures(pipe: Pipeline, options: argparse.Namespace, config: SamplingConfig) -> Pictures:
    from mmprime.generation.prompts import check_prompt

    if options.prompt is not None:
        warn(check_prompt(options.prompt, pipe.card.words))
    return pipe.generate(options.prompt, options.num, config, label=options.label)


def _texts(pipe: Pipeline, options: argparse.Namespace, config: SamplingConfig) -> Texts:
    if options.prompt is None or options.label is not None:
        raise ValueError("a text model needs a --prompt, and has no --label")
    if "___" in options.prompt:
        return pipe.fill_text(options.prompt, options.num, options.blank_tokens, config)
    return pipe.continue_text(options.prompt, options.num, options.new_tokens, config)


# ---------------------------------------------------------------- files


def _write_curves(file: Path, curves: Sequence[StepCurve]) -> Path:
    from mmprime.evaluation.plots import Line, plot_panels

    names = ("mean entropy of what was drawn, nats", "mean confidence of what was drawn")
    panels = []
    for name, curve in zip(names, curves):
        steps = [k for k, value in enumerate(curve.mean.tolist(), 1) if not math.isnan(value)]
        error = [None if math.isnan(curve.error[k - 1]) else float(curve.error[k - 1]) for k in steps]
        panels.append((name, [Line("", steps, [float(curve.mean[k - 1]) for k in steps], error)]))
    plot_panels(file, panels, "step")
    return file


def _write_pictures(out: Path, result: Result, pipe: Pipeline, options: argparse.Namespace) -> list[Path]:
    import torch

    from mmprime.evaluation.plots import plot_maps
    from mmprime.generation import images
    from mmprime.generation.trace import reveal_maps, trace_of

    tokenizer = pipe.image_tokenizer
    assert tokenizer is not None
    frames = [images.partial_images(y, pipe.canvas, tokenizer) for y in trace_of(result).y]
    labels = [f"step {k}" for k in range(1, len(frames) + 1)] * len(result.y)
    strip = images.sheet(torch.stack(frames, 1).flatten(0, 1), labels, len(frames), options.scale)
    images.save_picture(out / "strip.png", strip)
    images.save_film(out / "film.gif", images.film(frames, options.scale))
    titles = ["mean of the digits", *(f"digit {s + 1}" for s in range(pipe.canvas.span("image").codec.num_digits))]
    rows = []
    for number, maps in enumerate(reveal_maps(result.rank, pipe.canvas).tolist(), 1):
        start = f"{number}: " if len(result.y) > 1 else ""
        rows.append([(start + title, map_) for title, map_ in zip(titles, maps)])
    plot_maps(out / "order.png", rows, "revealed at step")
    return [out / "strip.png", out / "film.gif", out / "order.png"]


def _write_page(file: Path, result: Result, pipe: Pipeline, about: dict[str, Any], curves: Sequence[StepCurve]) -> Path:
    from mmprime.generation.trace_page import page, text_tokens

    nats, confidence = (_in_words(curve) for curve in curves)
    rows = list(zip(range(1, len(nats) + 1), nats, confidence))
    facts = {key.replace("_", " "): value for key, value in about.items() if key != "prompt" and value is not None}
    title = f"How “{about['prompt']}” was completed"
    write_text(file, page(title, facts, text_tokens(result, pipe), rows, (file.parent / "entropy.png").read_bytes()))
    return file


def _in_words(curve: StepCurve) -> list[str]:
    """Each step's mean ± its standard error, where there is one."""
    return [
        "nothing drawn" if math.isnan(mean) else f"{mean:.3f}" if math.isnan(error) else f"{mean:.3f} ± {error:.3f}"
        for mean, error in zip(curve.mean.tolist(), curve.error.tolist())
    ]


def _about(pipe: Pipeline, config: SamplingConfig, options: argparse.Namespace) -> dict[str, Any]:
    """What was asked of which model."""
    from mmprime.engine import Guidance
    from mmprime.evaluation.provenance import model_hash
    from mmprime.generation.defaults import entry_of

    entry = entry_of(config)
    given = " ".join(options.sampler[1:]) if options.sampler else ""
    return {
        "prompt": options.prompt,
        "label": options.label,
        "model": Path(options.model).name,
        "model_hash": model_hash(options.model),
        "sampler": f"{entry['sampler']} {given}".strip(),
        "steps": entry["steps"],
        "guidance": str(Guidance.of(config.guidance)) if config.guidance else None,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
    }


def _write_json(file: Path, result: Result, pipe: Pipeline, about: dict[str, Any]) -> Path:
    from mmprime.evaluation.provenance import versions
    from mmprime.generation.sampling import Texts
    from mmprime.generation.trace import record, trace_of

    examples = record(result, pipe.canvas)
    for example, text in zip(examples, result.texts if isinstance(result, Texts) else []):
        example["text"] = text
    origin = {"format": FORMAT, **about, "versions": versions(), "num_steps": len(trace_of(result).y)}
    write_text(file, json.dumps({**origin, "examples": examples}, ensure_ascii=False, allow_nan=False) + "\n")
    return file


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = sys.argv[1:] if arguments is None else arguments
    return console.run(lambda: trace(parse(typed), console.typed("trace", typed)))
