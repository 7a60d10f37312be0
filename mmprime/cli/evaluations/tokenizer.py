"""An image tokenizer by itself: PSNR, SSIM, use of its codes or digits, seconds, distances, captions kept."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import console
from .pictures import add_metric_arguments, rules_of

if TYPE_CHECKING:
    from mmprime.data import ImageDataset
    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.captions import Gallery
    from mmprime.evaluation.images.comparison import Comparison, Extractors
    from mmprime.evaluation.images.extractors import FeatureExtractor
    from mmprime.evaluation.images.reconstruction import Reconstructed
    from mmprime.evaluation.images.sets import PictureArray
    from mmprime.tokenizers import ImageTokenizerBase

HELP = "PSNR, SSIM, code use, distances and captions kept of an image tokenizer"
NOTES = (
    "PSNR is the mean over images of each image's own; its error is over images. rFID and rFD compare reconstructions "
    "with their own originals, so they are smaller than distances to other pictures. A caption is kept where the "
    "nearest real drawing of a reconstruction carries it.",
)
CAPTIONS = "captions"
METRICS = ("fid", "fd-effnet-lite0", "kid-effnet-lite0", CAPTIONS)
DEFAULT = ("kid-effnet-lite0", CAPTIONS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--tokenizer", type=console.pretrained, default=console.DEFAULT_MODEL.replace("emoji_t2i", "emoji_tokenizer")
    )
    parser.add_argument("--data", default=console.DEFAULT_IMAGES, help="dataset folder of images")
    parser.add_argument("--split", default="val", help="a split, or the start of some: val (default) takes all val*")
    parser.add_argument("--limit", type=console.positive, help="images of each split, drawn by --seed (default: all)")
    parser.add_argument("--batch", type=console.positive, default=64)
    add_metric_arguments(parser, None, f"none, or some of {','.join(METRICS)} (default: {','.join(DEFAULT)})")


@dataclass(frozen=True)
class CaptionReader:
    """Reads captions: all drawings of a data set, and the split of each."""

    network: FeatureExtractor
    gallery: Gallery
    splits: list[str]


def run(options: argparse.Namespace) -> list[Measure]:
    """A few rows for each split."""
    import torch

    from mmprime.data import ImageDataset
    from mmprime.data.digit_order import poor_reconstruction
    from mmprime.evaluation import Measure, stamp
    from mmprime.evaluation.datasets import choose_rows, splits_of
    from mmprime.evaluation.images.comparison import Extractors
    from mmprime.evaluation.images.reconstruction import reconstruct
    from mmprime.evaluation.images.sets import PictureArray
    from mmprime.evaluation.provenance import data_hash, model_hash
    from mmprime.io import warn
    from mmprime.tokenizers import load_image_tokenizer

    asked = _asked(options.metric)
    distances = [name for name in asked if name != CAPTIONS]
    extractors = Extractors(distances, options.inception) if distances else None
    tokenizer = load_image_tokenizer(options.tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    reader = _reader(options.data) if CAPTIONS in asked else None
    rows: list[Measure] = []
    for split in splits_of(options.data, options.split):
        data = ImageDataset.load(options.data, split)
        chosen = choose_rows(len(data), len(data) if options.limit is None else options.limit, options.seed)
        data = data.select(chosen)
        comparison = _comparison(extractors, data, options)
        result = reconstruct(tokenizer, data.images, options.batch, progress=True)
        problem = poor_reconstruction(float(result.psnr.mean()))
        warn(f"{options.tokenizer}, {split}: {problem}" if problem else None)
        measured = [
            Measure(name, value, error, unit, len(data), 0, None)
            for name, value, error, unit in _measured(result, tokenizer)
        ]
        measured += _read(PictureArray(result.images), comparison, reader, split, chosen)
        rows += [replace(row, metric=f"{split}: {row.metric}") for row in measured]
    hashes = {"data_hash": data_hash(options.data), "model_hash": model_hash(options.tokenizer)}
    return stamp(rows, seed=options.seed, **hashes)


def _asked(text: str | None) -> list[str]:
    """The metrics asked for. Raises ValueError naming one that is not of a tokenizer.

    Those of the default that need what is not installed are left out, saying so.
    """
    from mmprime.evaluation.images.effnet import weights_file
    from mmprime.io import warn

    if text is not None:
        asked = list(
            dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip() not in ("", "none"))
        )
        if odd := sorted(set(asked) - set(METRICS)):
            raise ValueError(f"--metric {odd[0]} is not one of a tokenizer; there are none, {', '.join(METRICS)}")
        return asked
    try:
        weights_file()
    except ValueError as error:
        warn(f"{error}; without it there are no {' and '.join(DEFAULT)}")
        return []
    return list(DEFAULT)


def _reader(folder: str) -> CaptionReader | None:
    """Of the captioned drawings of a data set; None where none has a caption."""
    from mmprime.data import ImageDataset
    from mmprime.evaluation.images.captions import Gallery
    from mmprime.evaluation.images.extractors import effnet
    from mmprime.evaluation.images.sets import PictureArray

    real = ImageDataset.load(folder)
    if not any(caption.strip() for caption in real.captions):
        return None
    network = effnet()
    features = network.cached_features(PictureArray(real.images), progress=True).features
    return CaptionReader(network, Gallery(features, real.captions, real.vendors), real.splits)


def _comparison(extractors: Extractors | None, data: ImageDataset, options: argparse.Namespace) -> Comparison | None:
    """Of reconstructions with their originals. Raises ValueError where there are too few for what was asked for; a
    default is left out, saying so."""
    from mmprime.evaluation.images.comparison import Comparison
    from mmprime.evaluation.images.sets import PictureArray
    from mmprime.io import warn

    if extractors is None:
        return None
    comparison = Comparison(extractors, PictureArray(data.images), rules_of(options))
    try:
        comparison.check(len(data))
    except ValueError as error:
        if options.metric is not None:
            raise
        warn(str(error))
        return None
    return comparison


def _read(
    restored: PictureArray, comparison: Comparison | None, reader: CaptionReader | None, split: str, chosen: list[int]
) -> list[Measure]:
    """Distances, and captions kept, of the reconstructions of `chosen` drawings of a split."""
    from mmprime.evaluation import Measure

    rows: list[Measure] = []
    known = {} if reader is None else {reader.network.name: reader.network.features(restored, progress=True)}
    if comparison is not None:
        rows += [replace(row, metric=f"r{row.metric}") for row in comparison.rows(restored, 0, None, features=known)]
    if reader is not None:
        numbers = [number for number, name in enumerate(reader.splits) if name == split]
        originals = [numbers[row] for row in chosen]
        for name, share in reader.gallery.kept(known[reader.network.name].features, originals):
            rows.append(Measure(name, share.value, share.stderr, "share", share.count, 0, None))
    return rows


def _measured(result: Reconstructed, tokenizer: ImageTokenizerBase) -> Iterator[tuple[str, float, float | None, str]]:
    """(name, value, standard error, unit) of a split."""
    count = len(result.images)
    for name, values, unit in (("PSNR", result.psnr, "dB"), ("SSIM", result.ssim, "")):
        yield name, float(values.mean()), float(values.std() / count**0.5) if count > 1 else None, unit
    if not tokenizer.radices:
        ((use, perplexity),) = result.levels
        yield "codes used", use, None, "share of the code book"
        yield "code perplexity", perplexity, None, "codes"
    else:
        shares = [use for use, _ in result.levels]
        yield "values of digits used", sum(shares) / len(shares), None, "share, mean over levels"
        for level, (base, (_, perplexity)) in enumerate(zip(tokenizer.radices, result.levels), 1):
            yield f"perplexity of digit {level}", perplexity, None, f"of {base} values"
    yield "encode and decode", result.seconds / count, None, "s a picture"
