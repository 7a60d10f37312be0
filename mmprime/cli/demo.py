"""Show the shipped model at work: six prompts on one sheet, one caption read from a picture, one bound on real data.

    mmprime demo [--out out/demo.png]
    mmprime demo --page [--models DIR ...]     the same by hand, in the browser (needs the extra `demo`; docs/page.md)

Exit codes: 0 done, 2 a model or data that is missing or does not fit (one line); all of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from . import console

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline

PROMPTS = ("red apple", "sun", "red heart", "cat face", "pizza", "rocket")
SHIPPED = (console.DEFAULT_MODEL, str(console.ROOT / "assets/models/english"))  # of the page
READ, READINGS, READ_STEPS = "banana", 8, 16  # the caption of the drawing that is read back, from as many readings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=console.DEFAULT_MODEL, help="a text-image model folder")
    parser.add_argument("--images", default=console.DEFAULT_IMAGES, help="captioned images, to read one from")
    parser.add_argument("--data", default=console.DEFAULT_CODES, help="sample data for the bound")
    parser.add_argument("--split", default="val_vendor", help="of both (default: of the vendor never trained on)")
    parser.add_argument("--out", type=console.out_file, default="out/demo.png", help="the sheet (default out/demo.png)")
    parser.add_argument("--steps", type=console.positive, help="of the six pictures (default: the model folder's)")
    parser.add_argument("--limit", type=console.positive, default=128, help="examples for the bound")
    parser.add_argument("--seed", type=console.whole, default=0)
    page = parser.add_argument_group("a page in the browser")
    page.add_argument(
        "--page", action="store_true", help="show one until Ctrl-C; of the rest of the options none counts"
    )
    page.add_argument(
        "--models",
        nargs="+",
        metavar="DIR",
        help="models of the page, folders or names on the hub (default: those that ship)",
    )
    page.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)"
    )
    page.add_argument("--port", type=console.positive, default=7860, help="port to listen at (default 7860)")
    return parser.parse_args(arguments)


def demo(options: argparse.Namespace) -> None:
    """Run the three parts. Raises ValueError for what is missing."""
    if options.page:
        show_page(options)
        return
    start = time.perf_counter()
    options.model = console.model_folder(options.model)
    console.require_path(options.images, "--images")
    console.require_path(options.data, "--data")
    from mmprime.generation.pipeline import from_pretrained

    pipe = from_pretrained(options.model)
    count = sum(weights.numel() for weights in pipe.model.parameters())
    here = os.path.relpath(options.model)
    model = options.model if here.startswith("..") else here
    print(f"model: {model}, {count:,} parameters, on {pipe.device}", flush=True)
    make_sheet(pipe, options)
    read_caption(pipe, options)
    bound(pipe, options)
    print(f"all in {time.perf_counter() - start:.1f} s")


def show_page(options: argparse.Namespace) -> None:
    """The page, until Ctrl-C. Raises ValueError for what is missing, and on two models of one name."""
    asked = options.models or SHIPPED
    names = [os.path.basename(os.path.abspath(name)) for name in asked]
    folders = [console.model_folder(name, "--models") for name in asked]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--models: two folders are called {twice[0]!r}; rename one, for the page tells them by name")
    if options.port >= 2**16:
        raise ValueError(f"--port {options.port}: ports end at {2**16 - 1}")
    if find_spec("gradio") is None:
        raise ValueError("the page needs gradio; pip install 'mmprime[demo]'")
    from mmprime.generation.pipeline import from_pretrained

    from .page.app import served
    from .page.requests import PageRequests

    desk = PageRequests({name: from_pretrained(folder) for name, folder in zip(names, folders)})
    with served(desk, options.host, options.port) as address:
        print(f"page at {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()


def make_sheet(pipe: Pipeline, options: argparse.Namespace) -> None:
    """Six prompts, one picture each."""
    from mmprime.generation import images

    config = pipe.config_for("image")
    config = replace(config, steps=options.steps or config.steps, seed=options.seed, progress=True)
    result = pipe.generate(PROMPTS, 1, config)
    sheet = images.sheet(result.images, labels=list(PROMPTS), columns=3, scale=4)
    images.save_picture(options.out, sheet)
    spent = f"{int(result.nfe.max())} NFE each, {result.seconds:.1f} s"
    print(f"drawn: {', '.join(PROMPTS)} ({spent}) -> {options.out}", flush=True)


def read_caption(pipe: Pipeline, options: argparse.Namespace) -> None:
    """The caption of one real drawing."""
    from mmprime.data import ImageDataset
    from mmprime.generation.sampling import SamplingConfig

    real = ImageDataset.load(options.images, options.split)
    index = next((i for i, caption in enumerate(real.captions) if READ in caption), 0)
    config = SamplingConfig("token_synchronous", READ_STEPS, seed=options.seed)  # readings that differ
    result = pipe.caption(real.images[index : index + 1].float() / 255, READINGS, config)
    best = int(pipe.caption_nats(result, seed=options.seed).argmin())
    source = f"a drawing of {real.captions[index]!r} ({options.split})"
    print(f"read: {result.texts[best]!r}, the likeliest of {READINGS} readings, from {source}", flush=True)


def bound(pipe: Pipeline, options: argparse.Namespace) -> None:
    """The NELBO of held-out data, beside that of a model that knows nothing (every code equally likely)."""
    from mmprime.engine import masking_of
    from mmprime.evaluation.datasets import load_scored
    from mmprime.evaluation.likelihood import Effort, estimate, uniform_nats
    from mmprime.evaluation.quantities import Quantity
    from mmprime.evaluation.tasks import choose_tasks, evaluation_tasks

    rows, masking = load_scored(pipe, options.data, options.split, options.limit, options.seed), pipe.card.masking
    for task in choose_tasks(evaluation_tasks(pipe.canvas), ["image|text", "text|image"]):
        nelbo = estimate(
            pipe.model, pipe.canvas, rows, task, Quantity("nelbo", masking_of(masking)), Effort(seed=options.seed)
        )
        value, error = nelbo.per_token
        uniform = uniform_nats(pipe.canvas, task) / float(nelbo.tokens.double().mean())
        spread = "" if error is None else f" ± {error:.3f}"
        print(
            f"NELBO of {task.name}, {len(nelbo.nats)} drawings of {options.split}: "
            f"{value:.3f}{spread} nats/token{rows.sizes.counted(task)} "
            f"(continuous, {masking}; a model that knows nothing: {uniform:.3f})",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    return console.run(lambda: demo(parse(arguments)))
