"""How often the nearest real drawing of a generated one carries its caption."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmprime import console

if TYPE_CHECKING:
    from mmprime.evaluation import Measure

HELP = "caption of the nearest real drawing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", default=console.DEFAULT_MODEL)
    parser.add_argument("--data", default=console.DEFAULT_IMAGES, help="dataset folder of captioned images")
    parser.add_argument("--num", type=console.positive, default=300, help="captions seen in training")
    parser.add_argument("--steps", type=console.positive, default=32)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--plan", choices=console.PLANS)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--save", metavar="DIR", help="also write the generated pictures, one file each")


def run(options: argparse.Namespace) -> list[Measure]:
    """Caption accuracy, with ceiling and chance."""
    from mmprime.data import ImageDataset
    from mmprime.drawing import Draw
    from mmprime.engine import mix
    from mmprime.evaluation import Measure, stamp
    from mmprime.evaluation.captions import Gallery, choose_captions
    from mmprime.evaluation.features import EfficientNetLite0, cached, extract
    from mmprime.evaluation.provenance import data_hash
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
    how = {"sampler": options.plan or pipe.law, "guidance": options.guidance}
    rows = [Measure("caption accuracy, generated", reached.value, reached.stderr, *common, nfe, options.seed)]
    if len(set(real.vendors)) > 1:
        best = gallery.ceiling(wanted, options.seed)
        rows.append(
            Measure("ceiling: a vendor's drawing among the others'", best.value, best.stderr, *common, 0, options.seed)
        )
    rows.append(Measure("chance", gallery.chance(wanted), None, *common, 0, options.seed))
    return stamp(rows, data_hash=data_hash(options.data), **how)


def save_each(folder: str, images: Any) -> None:
    """Each picture as a file of its own, at its own size."""
    from mmprime import rendering

    for number, image in enumerate(images):
        rendering.save_picture(Path(folder) / f"{number:05d}.png", rendering.to_picture(image))
