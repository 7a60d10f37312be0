"""An image tokenizer by itself: PSNR, SSIM, use of its codes or digits, seconds, rFID or rFD-EffNet-Lite0."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import console
from .pictures import add_metric_arguments, rules_of

if TYPE_CHECKING:
    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.reconstruction import Reconstructed
    from mmprime.tokenizers import ImageTokenizerBase

HELP = "PSNR, SSIM, code use and rFID of an image tokenizer"
NOTES = (
    "PSNR is the mean over images of each image's own; its error is over images. rFID and rFD compare reconstructions "
    "with their own originals, so they are smaller than distances to other pictures.",
)
METRICS = ("fid", "fd-effnet-lite0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--tokenizer", type=console.pretrained, default=console.DEFAULT_MODEL.replace("emoji_t2i", "emoji_tokenizer")
    )
    parser.add_argument("--data", default=console.DEFAULT_IMAGES, help="dataset folder of images")
    parser.add_argument("--split", default="val", help="a split, or the start of some: val (default) takes all val*")
    parser.add_argument("--limit", type=console.positive, help="images of each split, drawn by --seed (default: all)")
    parser.add_argument("--batch", type=console.positive, default=64)
    add_metric_arguments(parser, "none")


def run(options: argparse.Namespace) -> list[Measure]:
    """A few rows for each split."""
    import torch

    from mmprime.data import ImageDataset
    from mmprime.data.digit_order import poor_reconstruction
    from mmprime.evaluation import Measure, stamp
    from mmprime.evaluation.datasets import choose_rows, splits_of
    from mmprime.evaluation.images.comparison import Comparison, Extractors, parse_metrics
    from mmprime.evaluation.images.reconstruction import reconstruct
    from mmprime.evaluation.images.sets import PictureArray
    from mmprime.evaluation.provenance import data_hash, model_hash
    from mmprime.io import warn
    from mmprime.tokenizers import load_image_tokenizer

    asked = [] if options.metric == "none" else parse_metrics(options.metric)
    if odd := sorted(set(asked) - set(METRICS)):
        raise ValueError(f"--metric {odd[0]} is not one of a tokenizer; there are none, {', '.join(METRICS)}")
    extractors = Extractors(asked, options.inception) if asked else None
    tokenizer = load_image_tokenizer(options.tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[Measure] = []
    for split in splits_of(options.data, options.split):
        images = ImageDataset.load(options.data, split).images
        if options.limit is not None:
            images = images[choose_rows(len(images), options.limit, options.seed)]
        comparison = None if extractors is None else Comparison(extractors, PictureArray(images), rules_of(options))
        if comparison is not None:
            comparison.check(len(images))
        reconstruction = reconstruct(tokenizer, images, options.batch, progress=True)
        problem = poor_reconstruction(float(reconstruction.psnr.mean()))
        warn(f"{options.tokenizer}, {split}: {problem}" if problem else None)
        rows += [
            Measure(f"{split}: {name}", value, error, unit, len(images), 0, options.seed)
            for name, value, error, unit in _measured(reconstruction, tokenizer)
        ]
        if comparison is not None:
            scored = comparison.rows(PictureArray(reconstruction.images), 0, options.seed)
            rows += [replace(row, metric=f"{split}: r{row.metric}") for row in scored]
    return stamp(rows, data_hash=data_hash(options.data), model_hash=model_hash(options.tokenizer))


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
