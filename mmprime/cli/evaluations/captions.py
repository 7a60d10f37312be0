"""Caption accuracy: of the nearest real drawing, or by a small alignment of drawings and captions."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from .samples import idle_share, steps_unused

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.data import ImageDataset
    from mmprime.evaluation import Measure
    from mmprime.generation.pipeline import Pipeline

HELP = "do generated drawings show their captions: nearest real drawing, or alignment"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", default=console.DEFAULT_MODEL)
    parser.add_argument(
        "--data", help="dataset folder of captioned images (default: the bundled emoji, for a model trained on them)"
    )
    parser.add_argument("--num", type=console.positive, default=300, help="captions seen in training")
    parser.add_argument("--steps", type=console.positive, default=32)
    console.add_guidance_arguments(parser, 3.0)
    parser.add_argument("--plan", choices=console.PLANS)
    parser.add_argument("--temperature", type=console.temperature, default=1.0)
    parser.add_argument("--judge", choices=("nearest", "alignment"), default="nearest")
    parser.add_argument(
        "--save", type=console.out_folder, metavar="DIR", help="also write the generated pictures, one file each"
    )


def run(options: argparse.Namespace) -> list[Measure]:
    """Caption accuracy by the judge asked for, with what it makes of real drawings, and chance."""
    from mmprime.data import ImageDataset
    from mmprime.engine import Guidance, mix
    from mmprime.evaluation import stamp
    from mmprime.evaluation.datasets import fitting
    from mmprime.evaluation.images.alignment import hold_out
    from mmprime.evaluation.images.captions import choose_captions
    from mmprime.evaluation.images.features import EfficientNetLite0, cached, extract
    from mmprime.evaluation.provenance import data_hash
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.generation.sampling import Draw

    guidance = Guidance(options.guidance, options.guidance_schedule)
    judge = EfficientNetLite0()
    pipe = from_pretrained(options.model)
    data = judged_set(pipe, options.data)
    real = ImageDataset.load(data)
    seen = [caption for caption, split in zip(real.captions, real.splits) if split == "train"]
    wanted = choose_captions(seen, options.num, options.seed, {seen[place] for place in fitting(pipe, seen)})
    seeds = [mix(options.seed, number) for number in range(len(wanted))]
    draw = Draw(options.steps, options.plan, guidance, options.temperature, seed=seeds, progress=True)
    if options.judge == "alignment":
        hold_out(real.vendors, real.splits)  # says what is missing before anything is drawn
    found = pipe.generate(wanted, 1, draw)
    images = (found.images.cpu() * 255).round().byte()
    if options.save:
        save_each(options.save, found.images)
    features = cached(real.images, judge.fingerprint, lambda: extract(judge, real.images, progress=True))
    print(f"{len(wanted)} pictures in {found.seconds:.1f} s of sampling; {len(real)} real drawings of {data}")
    judged = by_nearest if options.judge == "nearest" else by_alignment
    rows = judged(real, features, extract(judge, images), wanted, options.seed)
    nfe = float(found.nfe.double().mean())
    rows[0] = replace(rows[0], nfe=nfe, idle_steps=idle_share(draw, steps_unused(draw, found.rank)))
    how = {"sampler": options.plan or pipe.law, "guidance": str(guidance)}
    return stamp(rows, data_hash=data_hash(data), **how)


def judged_set(pipe: Pipeline, asked: str | None) -> str:
    """The captioned images to judge against: those asked for, or the bundled ones for a model of their codes.

    Raises ValueError for another model: what it was trained on are codes, which are no pictures to compare with.
    """
    if asked is not None:
        return asked
    if pipe.data is not None and pipe.data.resolve() == Path(console.DEFAULT_CODES).resolve():
        return console.DEFAULT_IMAGES
    trained = "does not say what it was trained on" if pipe.data is None else f"was trained on {pipe.data}"
    raise ValueError(f"the model {trained}; give --data DIR, the captioned images to judge its drawings against")


def by_nearest(real: ImageDataset, features: Tensor, drawn: Tensor, wanted: list[str], seed: int) -> list[Measure]:
    """The judge is the nearest real drawing; features (n, d) of the real, drawn (m, d) of the generated."""
    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.captions import Gallery

    gallery = Gallery(features, real.captions, real.vendors)
    reached = gallery.accuracy(drawn, wanted)
    common = ("share", len(wanted), 0, seed)
    rows = [Measure("caption accuracy, generated", reached.value, reached.stderr, *common)]
    if len(set(real.vendors)) > 1:
        best = gallery.ceiling(wanted, seed)
        rows.append(Measure("ceiling: a vendor's drawing among the others'", best.value, best.stderr, *common))
    rows.append(Measure("chance", gallery.chance(wanted), None, *common))
    return rows


def by_alignment(real: ImageDataset, features: Tensor, drawn: Tensor, wanted: list[str], seed: int) -> list[Measure]:
    """The judge is an alignment of drawings and captions, trained on all vendors but the held-out one."""
    from mmprime.evaluation import Measure, stamp
    from mmprime.evaluation.images.alignment import fit_once, hold_out, retrieval, sentences_of

    outside = hold_out(real.vendors, real.splits)
    inside = [index for index, vendor in enumerate(real.vendors) if vendor != outside]
    others = [index for index, vendor in enumerate(real.vendors) if vendor == outside]
    sentences = sentences_of(real.captions)
    model, digest = fit_once(features[inside], [real.captions[index] for index in inside], sentences)
    reached = retrieval(model, drawn, wanted, sentences)
    trusted = retrieval(model, features[others], [real.captions[index] for index in others], sentences)
    name = f"caption retrieval by alignment with {sentences.judge} among {len(sentences.texts)} captions"
    rows = [
        Measure(f"{name}, generated", reached.value, reached.stderr, "share", reached.count, 0, seed),
        Measure(f"{name}, real drawings of {outside}", trusted.value, trusted.stderr, "share", trusted.count, 0, seed),
        Measure("chance", 1 / len(sentences.texts), None, "share", reached.count, 0, seed),
    ]
    return stamp(rows, reference_hash=digest)


def save_each(folder: str, images: Any) -> None:
    """Each picture as a file of its own, at its own size."""
    from mmprime.generation import images as rendering

    for number, image in enumerate(images):
        rendering.save_picture(Path(folder) / f"{number:05d}.png", rendering.to_picture(image))
