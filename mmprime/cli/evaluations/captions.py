"""Caption accuracy: of the nearest real drawing, or by a small alignment of captions; what wording costs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console, sampling

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.data import ImageDataset
    from mmprime.evaluation import Measure
    from mmprime.generation.pipeline import Pipeline

HELP = "do generated drawings show their captions: nearest real drawing, or alignment"


def add_model_arguments(parser: argparse.ArgumentParser, what: str, count: int) -> None:
    """A model, the pictures to compare with, how many samples of `what`, and how to sample."""
    parser.add_argument("--model", default=console.DEFAULT_MODEL)
    parser.add_argument(
        "--data", help="dataset folder of captioned images (default: the bundled emoji, for a model trained on them)"
    )
    parser.add_argument("--num", type=console.positive, default=count, help=what)
    parser.add_argument("--steps", type=console.positive, help=sampling.OF_MODEL)
    console.add_guidance_arguments(parser)
    sampling.add_sampler(parser)
    parser.add_argument("--temperature", type=console.temperature)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    add_model_arguments(parser, "captions seen in training", 300)
    parser.add_argument("--by", choices=("nearest", "alignment"), default="nearest")
    what = "natural: also ask for each caption in a sentence that no training words so, and compare"
    parser.add_argument("--phrasing", choices=("bare", "natural"), default="bare", help=what)
    parser.add_argument(
        "--save", type=console.out_folder, metavar="DIR", help="also write the generated pictures, one file each"
    )


def run(options: argparse.Namespace) -> list[Measure]:
    """Caption accuracy in the way asked for, with what it makes of real drawings, and chance."""
    from mmprime.data import ImageDataset
    from mmprime.engine import Guidance, mix
    from mmprime.evaluation import stamp
    from mmprime.evaluation.datasets import fitting
    from mmprime.evaluation.images.alignment import hold_out
    from mmprime.evaluation.images.captions import choose_captions
    from mmprime.evaluation.images.extractors import effnet
    from mmprime.evaluation.images.sets import PictureArray
    from mmprime.evaluation.provenance import data_hash
    from mmprime.evaluation.sample_cost import idle_share, steps_unused
    from mmprime.generation.pipeline import from_pretrained

    sampling.given_sampling(options)  # refuse before anything is loaded
    if options.phrasing == "natural" and options.by != "nearest":
        raise ValueError("--phrasing natural compares by the nearest drawing; leave --by alignment out")
    extractor = effnet()
    pipe = from_pretrained(options.model)
    data = gallery_set(pipe, options.data)
    real = ImageDataset.load(data)
    known = [caption for caption, split in zip(real.captions, real.splits) if split == "train"]
    seen = {known[index] for index in fitting(pipe, known)}
    wanted = choose_captions(known, options.num, options.seed, seen)
    seeds = [mix(options.seed, number) for number in range(len(wanted))]
    config, name = sampling.measured_sampling(options, pipe, "image")
    config = replace(config, seed=seeds)
    if options.by == "alignment":
        hold_out(real.vendors, real.splits)  # says what is missing before anything is sampled
    result = pipe.generate(wanted, 1, config)
    if options.save:
        save_each(options.save, result.images)
    features = extractor.cached_features(PictureArray(real.images), progress=True).features
    print(f"{len(wanted)} pictures in {result.seconds:.1f} s of sampling; {len(real)} real drawings of {data}")
    generated = extractor.features(PictureArray((result.images.cpu() * 255).round().byte())).features
    if options.by == "nearest":
        rows = by_nearest(real, features, generated, wanted, seen, options.seed)
    else:
        rows = by_alignment(real, features, generated, wanted, options.seed)
    if options.phrasing == "natural":
        worded = pipe.generate(asked_for(pipe, wanted, options.seed), 1, config)
        drawn = extractor.features(PictureArray((worded.images.cpu() * 255).round().byte())).features
        rows += by_wording(real, features, (generated, drawn), wanted, options.seed)
    idle = idle_share(config, steps_unused(config, result.rank))
    rows[0] = replace(rows[0], nfe=float(result.nfe.double().mean()), idle_steps=idle)
    return stamp(rows, data_hash=data_hash(data), sampler=name, guidance=str(Guidance.of(config.guidance)))


def gallery_set(pipe: Pipeline, asked: str | None) -> str:
    """The captioned images to compare with: those asked for, or the bundled ones for a model of their codes.

    Raises ValueError for another model: what it was trained on are codes, which are no pictures to compare with.
    """
    if asked is not None:
        return asked
    if pipe.card.data is not None and pipe.card.data.resolve() == Path(console.DEFAULT_CODES).resolve():
        return console.DEFAULT_IMAGES
    trained = "does not say what it was trained on" if pipe.card.data is None else f"was trained on {pipe.card.data}"
    raise ValueError(f"the model {trained}; give --data DIR, the captioned images to compare its drawings with")


def by_nearest(
    real: ImageDataset, features: Tensor, generated: Tensor, wanted: list[str], seen: set[str], seed: int
) -> list[Measure]:
    """The caption of the nearest real drawing; features (n, d) of the real drawings, generated (m, d).

    The ceiling is that of all captions `seen` in training, whatever `wanted` were drawn.
    """
    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.captions import Gallery

    gallery = Gallery(features, real.captions, real.vendors)
    reached = gallery.accuracy(generated, wanted)
    common = ("share", len(wanted), 0, seed)
    rows = [Measure("caption accuracy, generated", reached.value, reached.stderr, *common)]
    if len(set(real.vendors)) > 1:
        best, name = gallery.ceiling(seen), "ceiling: a vendor's drawing among the others'"
        rows.append(Measure(name, best.value, best.stderr, "share", best.count, 0, None))
    rows.append(Measure("chance", gallery.chance(wanted), None, *common))
    return rows


def asked_for(pipe: Pipeline, captions: Sequence[str], seed: int) -> list[str]:
    """Each caption in a sentence drawn by seed among those that the model's text span holds, else as it is."""
    from mmprime.data.phrasings import evaluation_phrasings
    from mmprime.engine import mix

    asked = []
    for number, caption in enumerate(captions):
        fit = [text for text in evaluation_phrasings(caption) if pipe.holds(text)]
        asked.append(fit[mix(seed, number, len(fit)) % len(fit)] if fit else caption)
    if bare := sum(text == caption for text, caption in zip(asked, captions)):
        print(f"{bare} of {len(asked)} captions fit into no sentence of the model's text span and stay bare")
    return asked


def by_wording(
    real: ImageDataset, features: Tensor, drawn: tuple[Tensor, Tensor], wanted: list[str], seed: int
) -> list[Measure]:
    """Accuracy of natural wording, and what it loses against bare captions; drawn: features (m, d) of either, made
    with equal seeds, so that the error is that of paired differences."""
    import torch

    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.captions import Accuracy, Gallery

    gallery = Gallery(features, real.captions, real.vendors)
    bare, natural = (gallery.right(part, wanted) for part in drawn)
    reached = Accuracy.of(natural)
    lost = torch.tensor(bare).double() - torch.tensor(natural).double()
    error = float(lost.std(correction=0)) / len(lost) ** 0.5
    common = ("share", len(wanted), 0, seed)
    return [
        Measure("caption accuracy, generated, natural phrasing", reached.value, reached.stderr, *common),
        Measure("lost by natural phrasing", float(lost.mean()), error, *common),
    ]


def by_alignment(
    real: ImageDataset, features: Tensor, generated: Tensor, wanted: list[str], seed: int
) -> list[Measure]:
    """By an alignment of drawings and captions, trained on all vendors but the held-out one."""
    from mmprime.evaluation import Measure, stamp
    from mmprime.evaluation.images.alignment import fit_once, hold_out, retrieval, sentences_of

    outside = hold_out(real.vendors, real.splits)
    inside = [index for index, vendor in enumerate(real.vendors) if vendor != outside]
    others = [index for index, vendor in enumerate(real.vendors) if vendor == outside]
    sentences = sentences_of(real.captions)
    model, digest = fit_once(features[inside], [real.captions[index] for index in inside], sentences)
    reached = retrieval(model, generated, wanted, sentences)
    trusted = retrieval(model, features[others], [real.captions[index] for index in others], sentences)
    name = f"caption retrieval by alignment with {sentences.encoder} among {len(sentences.texts)} captions"
    rows = [
        Measure(f"{name}, generated", reached.value, reached.stderr, "share", reached.count, 0, seed),
        Measure(f"{name}, real drawings of {outside}", trusted.value, trusted.stderr, "share", trusted.count, 0, seed),
        Measure("chance", 1 / len(sentences.texts), None, "share", reached.count, 0, seed),
    ]
    return stamp(rows, reference_hash=digest)


def save_each(folder: str, images: Any) -> None:
    """Each picture as a file of its own, at its own size."""
    from mmprime.generation.images import save_picture, to_picture

    for number, image in enumerate(images):
        save_picture(Path(folder) / f"{number:05d}.png", to_picture(image))
