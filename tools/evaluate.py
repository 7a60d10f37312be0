"""Measure a model. Every number comes with its name, its standard error and the command that gives it again.

    python tools/evaluate.py likelihood --model DIR [--data DIR] [--split val] [--steps 4,16,64]
        bounds (NELBO) in nats per token, bits per byte / code / dimension, perplexity of text
    python tools/evaluate.py samples --generated DIR --reference DIR --inception FILE
        Fréchet distance between two folders of pictures: FID, or --metric fd-effnet-lite0
    python tools/evaluate.py captions --model DIR [--num 300] [--steps 32]
        how often the nearest real drawing of a generated one carries its caption

Exit codes: 0 done, 2 a mistake in what was asked (one line).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmprime import console  # noqa: E402

DEFAULT_MODEL = ROOT / "assets/models/emoji_t2i"
DEFAULT_IMAGES = ROOT / "assets/emoji"
PLANS = ("first_hitting", "nested", "token_synchronous", "halton", "ancestral", "ordered")
LAWS = ("independent", "nested", "token_synchronous")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    bounds = commands.add_parser("likelihood", help="bounds on the negative log-likelihood")
    bounds.add_argument("--model", default=str(DEFAULT_MODEL))
    bounds.add_argument("--data", help="dataset folder: codes, images or text (default: what the model was trained on)")
    bounds.add_argument("--split", default="val", help="a split, or the start of some: val (default) takes all val*")
    bounds.add_argument("--limit", type=console.positive, default=256, help="examples of each split, drawn by --seed")
    bounds.add_argument("--steps", type=_numbers, default=[4, 16, 64], help="T of finite-T bounds, e.g. 4,16,64")
    bounds.add_argument("--laws", type=_laws, default=list(LAWS), help="laws of the continuous bounds, comma-separated")
    bounds.add_argument("--tasks", type=_names, help="e.g. image|text,text|image,joint (default: all)")
    bounds.add_argument("--samples", type=console.positive, default=1, help="draws averaged for each example")
    bounds.add_argument("--batch", type=console.positive, default=64)
    distance = commands.add_parser("samples", help="Fréchet distance of two folders of pictures")
    distance.add_argument("--generated", required=True)
    distance.add_argument("--reference", required=True)
    distance.add_argument("--metric", choices=("fid", "fd-effnet-lite0"), default="fid")
    distance.add_argument("--inception", help="the file of Inception weights, for fid")
    words = commands.add_parser("captions", help="caption of the nearest real drawing")
    words.add_argument("--model", default=str(DEFAULT_MODEL))
    words.add_argument("--data", default=str(DEFAULT_IMAGES), help="dataset folder of captioned images")
    words.add_argument("--num", type=console.positive, default=300, help="captions seen in training")
    words.add_argument("--steps", type=console.positive, default=32)
    words.add_argument("--guidance", type=float, default=3.0)
    words.add_argument("--plan", choices=PLANS)
    words.add_argument("--temperature", type=float, default=1.0)
    words.add_argument("--save", metavar="DIR", help="also write the generated pictures, one file each")
    for command in (bounds, distance, words):
        command.add_argument("--seed", type=console.whole, default=0)
        command.add_argument("--json", metavar="FILE", help="write the rows as JSON")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [console.positive(part.strip()) for part in text.split(",") if part.strip()]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _laws(text: str) -> list[str]:
    names = _names(text)
    for name in names:
        if name not in LAWS:
            raise argparse.ArgumentTypeError(f"unknown law {name!r}; there are {', '.join(LAWS)}")
    return names


def evaluate(options: argparse.Namespace) -> None:
    """Run the command. Raises ValueError for what the user can mend."""
    if "model" in options and not (Path(options.model) / "config.json").is_file():
        raise ValueError(f"no model at {options.model} (no config.json there); train one or give another --model")
    from mmprime.evaluation import table, to_json

    rows = {"likelihood": likelihood, "samples": samples, "captions": captions}[options.command](options)
    typed = shlex.join(["python", "tools/evaluate.py", *options.typed])
    rows = [replace(row, command=typed) for row in rows]
    print(table(rows))
    if options.command == "likelihood":
        from mmprime.evaluation.likelihood import JOINT_LOSS_NOTE

        print(JOINT_LOSS_NOTE)
    if options.json:
        from mmprime.files import write_text

        write_text(options.json, to_json(rows))
        print(f"rows in {options.json}")


def likelihood(options: argparse.Namespace) -> list[Any]:
    """Bounds on each split."""
    from mmprime.evaluation.likelihood import measures
    from mmprime.pipeline import from_pretrained
    from mmprime.scoring import load_scored, splits_of

    pipe = from_pretrained(options.model)
    data = Path(options.data) if options.data else pipe.data
    if data is None:
        raise ValueError("the model does not say what it was trained on; give --data DIR")
    rows = []
    for split in splits_of(data, options.split):
        scored = load_scored(pipe, data, split, options.limit, options.seed)
        found = measures(
            pipe.model,
            pipe.canvas,
            scored.y0,
            pipe.law,
            options.steps,
            options.laws,
            options.samples,
            options.seed,
            scored.sizes,
            scored.cond,
            options.tasks,
            options.batch,
        )
        rows += [replace(row, metric=f"{split}: {row.metric}") for row in found]
    return rows


def samples(options: argparse.Namespace) -> list[Any]:
    """The Fréchet distance of two folders."""
    from mmprime.evaluation import Measure
    from mmprime.evaluation.frechet import METRICS, check_inception, frechet_distance, read_folder

    if options.metric == "fid":
        check_inception(options.inception)
    generated, reference = read_folder(options.generated), read_folder(options.reference)
    value = frechet_distance(generated, reference, options.metric, options.inception)
    name = f"{METRICS[options.metric]} ({len(generated)} generated, {len(reference)} reference)"
    return [Measure(name, value, None, "squared distance", len(generated), 0, options.seed)]


def captions(options: argparse.Namespace) -> list[Any]:
    """Caption accuracy, with ceiling and chance."""
    from mmprime.data import ImageDataset
    from mmprime.drawing import Draw
    from mmprime.engine import mix
    from mmprime.evaluation import Measure
    from mmprime.evaluation.captions import Gallery, choose_captions
    from mmprime.evaluation.features import EfficientNetLite0, cached, extract
    from mmprime.pipeline import from_pretrained

    judge = EfficientNetLite0()
    pipe = from_pretrained(options.model)
    real = ImageDataset.load(options.data)
    seen = [caption for caption, split in zip(real.captions, real.splits) if split == "train"]
    wanted = choose_captions(seen, options.num, options.seed)
    seeds = [mix(options.seed, number) for number in range(len(wanted))]
    draw = Draw(options.steps, options.plan, options.guidance, options.temperature, seed=seeds)
    found = pipe.generate(wanted, 1, draw)
    images = (found.images.cpu() * 255).round().byte()
    if options.save:
        save_each(options.save, found.images)
    features = cached(real.images, judge.fingerprint, lambda: extract(judge, real.images, progress=True))
    gallery = Gallery(features, real.captions, real.vendors)
    reached = gallery.accuracy(extract(judge, images), wanted)
    nfe = float(found.nfe.double().mean())
    common = ("share", len(wanted))
    print(f"{len(wanted)} pictures in {found.seconds:.1f} s of sampling; {len(real)} real drawings")
    rows = [Measure("caption accuracy, generated", reached.value, reached.stderr, *common, nfe, options.seed)]
    if len(set(real.vendors)) > 1:
        best = gallery.ceiling(wanted, options.seed)
        rows.append(
            Measure("ceiling: a vendor's drawing among the others'", best.value, best.stderr, *common, 0, options.seed)
        )
    return [*rows, Measure("chance", gallery.chance(wanted), None, *common, 0, options.seed)]


def save_each(folder: str, images: Any) -> None:
    """Each picture as a file of its own, at its own size."""
    from mmprime import rendering

    for number, image in enumerate(images):
        rendering.save_picture(Path(folder) / f"{number:05d}.png", rendering.to_picture(image))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = sys.argv[1:] if arguments is None else arguments
    options = parse(typed)
    options.typed = typed
    return console.run(evaluate, options)


if __name__ == "__main__":
    raise SystemExit(main())
