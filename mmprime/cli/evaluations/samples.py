"""Generated pictures against real ones: two sets, or a model that samples for the captions of a split by itself.

A set is a folder of pictures or an .npz batch. Metrics by Inception (its weights are a file of the user's): fid, sfid,
kid, is, prc. By EfficientNet-Lite0, under names of their own: fd-effnet-lite0, kid-effnet-lite0, prc-effnet-lite0.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import console, sampling
from .pictures import add_metric_arguments, add_npz_argument, open_pictures, open_reference, rules_of, write_npz

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.comparison import Extractors

HELP = "FID, sFID, KID, Inception Score, precision and recall of pictures"
NOTES = (
    "Fréchet distances are biased upwards for few pictures: compare at equal counts only. Numbers named EffNet-Lite0 "
    "are no FIDs. Errors: KID by delete-d jackknife over its subsets, precision and recall binomial with the other "
    "set held fixed, Inception Score over its splits.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--generated", metavar="PATH", help="generated pictures of one size: a folder, or .npz (arr_0)")
    parser.add_argument("--reference", metavar="PATH", help="real pictures of one size: a folder, or an .npz batch")
    parser.add_argument("--model", metavar="DIR", help="sample the generated pictures from this model instead")
    parser.add_argument("--data", default=console.DEFAULT_IMAGES, help="with --model: captioned images (real pictures)")
    parser.add_argument("--split", default="train", help="with --model: a split, or the start of some")
    parser.add_argument("--num", type=console.positive, default=1000, help="with --model: how many to sample")
    parser.add_argument("--steps", type=console.numbers, help="with --model: step counts, e.g. 4,8,16,32")
    console.add_guidance_arguments(parser)
    sampling.add_sampler(parser)
    parser.add_argument("--temperature", type=console.temperature)
    add_metric_arguments(parser, "fid")
    add_npz_argument(parser)


def run(options: argparse.Namespace) -> list[Measure]:
    """The metrics asked for, of two folders or of a model at each number of steps."""
    from mmprime.evaluation import stamp
    from mmprime.evaluation.images.comparison import Comparison, Extractors, parse_metrics

    if (options.generated is None) == (options.model is None):
        raise ValueError("say what to measure: either --generated DIR (with --reference DIR) or --model DIR")
    extractors = Extractors(parse_metrics(options.metric), options.inception)
    if options.model is not None:
        return _of_model(options, extractors)
    generated, (reference, statistics) = open_pictures(options.generated), open_reference(options.reference)
    write_npz(options.npz, generated)
    rows = Comparison(extractors, reference, rules_of(options), statistics).rows(generated, 0, options.seed)
    return stamp(rows, model_hash=generated.fingerprint())


def _of_model(options: argparse.Namespace, extractors: Extractors) -> list[Measure]:
    from mmprime.engine import Guidance
    from mmprime.evaluation import stamp
    from mmprime.evaluation.images.batches import ReferenceBatch
    from mmprime.evaluation.images.comparison import Comparison
    from mmprime.evaluation.images.sampling import choose_prompts, sample_pictures
    from mmprime.evaluation.images.sets import PictureArray
    from mmprime.evaluation.provenance import data_hash
    from mmprime.generation.pipeline import from_pretrained

    sampling.given_sampling(options)  # refuse before anything is loaded
    if options.npz and len(options.steps or ()) > 1:
        raise ValueError(f"--npz {options.npz} holds one set of pictures; give one number of --steps")
    pipe = from_pretrained(options.model)
    captions, images = _split(options.data, options.split)
    given = ReferenceBatch(PictureArray(images), {}) if options.reference is None else open_reference(options.reference)
    comparison = Comparison(extractors, given.pictures, rules_of(options), given.statistics)
    comparison.check(options.num)
    prompts = choose_prompts(pipe, captions, options.num, options.seed)
    config, name = sampling.measured_sampling(options, pipe, "image")
    if prompts is None:
        config = replace(config, guidance=None)
    rows: list[Measure] = []
    for steps in options.steps or [config.steps]:
        sampled = sample_pictures(pipe, prompts, options.num, replace(config, steps=steps), options.seed)
        print(f"{options.num} pictures, NFE {sampled.nfe:g}, in {sampled.seconds:.1f} s of sampling")
        write_npz(options.npz, sampled.pictures)
        rows += comparison.rows(sampled.pictures, sampled.nfe, options.seed, sampled.idle_steps)
    guided = None if prompts is None else str(Guidance.of(config.guidance))
    return stamp(rows, data_hash=data_hash(options.data), sampler=name, guidance=guided)


def _split(data: str, split: str) -> tuple[list[str], Tensor]:
    """Captions and images of a split, or of all splits whose names start so."""
    import torch

    from mmprime.data import ImageDataset
    from mmprime.evaluation.datasets import splits_of

    parts = [ImageDataset.load(data, name) for name in splits_of(data, split)]
    return [caption for part in parts for caption in part.captions], torch.cat([part.images for part in parts])
