"""Exact captions: how often what a model reads from a drawing is the caption of that drawing, word for word."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from .. import console
from . import captions as drawing

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.data import ImageDataset
    from mmprime.evaluation import Measure
    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.sampling import SamplingConfig

HELP = "are the captions that are read from drawings their own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    drawing.add_model_arguments(parser, "drawings of each split, drawn by --seed", 300)
    parser.add_argument("--split", default="", help="a split, or the start of some (default: every split)")
    what = "captions read of a drawing, of which the one that is likeliest given the drawing counts"
    parser.add_argument("--candidates", type=console.positive, default=1, help=what)


def run(options: argparse.Namespace) -> list[Measure]:
    """For each split the share that is right, and that of the split's commonest caption given to every drawing."""
    from mmprime.data import ImageDataset
    from mmprime.evaluation import stamp
    from mmprime.evaluation.datasets import splits_of
    from mmprime.evaluation.provenance import data_hash
    from mmprime.generation.pipeline import from_pretrained

    from ..sampling import given_sampling, measured_sampling

    given_sampling(options)  # refuse before anything is loaded
    pipe = from_pretrained(options.model)
    if pipe.image_tokenizer is None or not pipe.canvas.has("text"):
        raise ValueError(f"{options.model} reads no captions: it needs an image tokenizer and a text span")
    data = drawing.gallery_set(pipe, options.data)
    config, name = measured_sampling(options, pipe, "text")
    rows = []
    for split in splits_of(data, options.split):
        rows += of_split(pipe, ImageDataset.load(data, split), split, config, options)
    return stamp(rows, data_hash=data_hash(data), sampler=name)


def of_split(
    pipe: Pipeline, dataset: ImageDataset, split: str, config: SamplingConfig, options: argparse.Namespace
) -> list[Measure]:
    """The rows of one split."""
    from dataclasses import replace

    from mmprime.engine import mix
    from mmprime.evaluation import Measure
    from mmprime.evaluation.datasets import choose_rows, fitting
    from mmprime.evaluation.images.captions import Accuracy

    fit = fitting(pipe, dataset.captions)
    picked = [fit[row] for row in choose_rows(len(fit), options.num, options.seed)]
    more = dataset.more_captions or [[]] * len(dataset)
    known = [{plain(text) for text in (dataset.captions[row], *more[row])} for row in picked]
    seeds = [mix(options.seed, number) for number in range(len(picked) * options.candidates)]
    texts, passes = likeliest_captions(
        pipe, dataset.images[picked] / 255, replace(config, seed=seeds), options.candidates
    )
    reached = Accuracy.of([plain(text) in captions for text, captions in zip(texts, known)])
    commonest = Counter(text for captions in known for text in captions).most_common(1)[0][1] / len(known)
    common = ("share", len(known))
    return [
        Measure(f"{split}: caption read word for word", reached.value, reached.stderr, *common, passes, options.seed),
        Measure(f"{split}: the commonest caption for all", commonest, None, *common, 0, options.seed),
    ]


def likeliest_captions(
    pipe: Pipeline, images: Tensor, config: SamplingConfig, candidates: int
) -> tuple[list[str], float]:
    """A caption of each of the images (n, 3, H, W), the likeliest of so many by the model's own bound; and the forward
    passes that sampling one of them took."""
    read = pipe.caption(images.to(pipe.device), candidates, config)
    passes = float(read.nfe.double().mean())
    if candidates == 1:
        return read.texts, passes
    best = pipe.caption_nats(read).view(-1, candidates).argmin(1).tolist()
    return [read.texts[row * candidates + number] for row, number in enumerate(best)], passes


def plain(text: str) -> str:
    """A caption without regard to case and blanks."""
    return " ".join(text.casefold().split())
