"""Generated pictures against real ones: two folders, or a model that draws for the captions of a split by itself.

Metrics by the Inception judge (its weights are a file of the user's): fid, kid, is, prc. By EfficientNet-Lite0, under
names of their own: fd-effnet-lite0, kid-effnet-lite0, prc-effnet-lite0.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from .. import console

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.comparison import Judges, Rules
    from mmprime.evaluation.images.sets import PictureFiles, Pictures
    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.sampling import Draw

HELP = "FID, KID, Inception Score, precision and recall of pictures"
NOTES = (
    "Fréchet distances are biased upwards for few pictures: compare at equal counts only. Numbers named EffNet-Lite0 "
    "are no FIDs. Errors: KID by delete-d jackknife over its subsets, precision and recall binomial with the other "
    "set held fixed, Inception Score over its splits.",
)
_AT_ONCE = 256
_BY_COUNT = (None, "first_hitting", "nested", "token_synchronous", "halton", "raster", "coarse_first")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--generated", metavar="DIR", help="a folder of generated pictures, all of one size")
    parser.add_argument("--reference", metavar="DIR", help="a folder of real pictures, all of one size")
    parser.add_argument("--model", metavar="DIR", help="draw the generated pictures with this model instead")
    parser.add_argument("--data", default=console.DEFAULT_IMAGES, help="with --model: captioned images (real pictures)")
    parser.add_argument("--split", default="train", help="with --model: a split, or the start of some")
    parser.add_argument("--num", type=console.positive, default=1000, help="with --model: how many to draw")
    parser.add_argument(
        "--steps",
        type=console.numbers,
        default=[32],
        help="with --model: step counts, e.g. 4,8,16,32",
    )
    console.add_guidance_arguments(parser, 3.0)
    parser.add_argument(
        "--plan", nargs="+", metavar=("NAME", "key=value"),
        help="order of revealing and its options, e.g. ancestral schedule=places:1,2 (default: as trained)",
    )  # fmt: skip
    parser.add_argument("--temperature", type=console.temperature, default=1.0)
    add_metric_arguments(parser, "fid")


def add_metric_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """What every command that compares pictures asks."""
    parser.add_argument("--metric", default=default, help="fid,kid,is,prc,fd-effnet-lite0,kid-...,prc-...")
    parser.add_argument("--inception", metavar="FILE", help="weights of the Inception judge ($MMPRIME_INCEPTION)")
    parser.add_argument("--kid-subset-size", type=console.positive, help="default: half of the set, at most 1000")
    parser.add_argument("--allow-few", action="store_true", help="a Fréchet distance of fewer pictures than features")


def rules_of(options: argparse.Namespace) -> Rules:
    """The options of `add_metric_arguments` as rules."""
    from mmprime.evaluation.images.comparison import Rules

    return Rules(options.kid_subset_size, options.allow_few, progress=True)


def run(options: argparse.Namespace) -> list[Measure]:
    """The metrics asked for, of two folders or of a model at each number of steps."""
    from mmprime.evaluation import stamp
    from mmprime.evaluation.images.comparison import Comparison, Judges, parse_metrics

    if (options.generated is None) == (options.model is None):
        raise ValueError("say what to judge: either --generated DIR (with --reference DIR) or --model DIR")
    judges = Judges(parse_metrics(options.metric), options.inception)
    if options.model is not None:
        return _of_model(options, judges)
    generated = open_folder(options.generated)
    reference = None if options.reference is None else open_folder(options.reference)
    rows = Comparison(judges, reference, rules_of(options)).rows(generated, 0, options.seed)
    return stamp(rows, model_hash=generated.fingerprint())


def _of_model(options: argparse.Namespace, judges: Judges) -> list[Measure]:
    from mmprime.engine import Guidance
    from mmprime.evaluation import stamp
    from mmprime.evaluation.images.comparison import Comparison
    from mmprime.evaluation.images.sets import Pictures, PictureSet
    from mmprime.evaluation.provenance import data_hash
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.generation.sampling import Draw

    pipe = from_pretrained(options.model)
    captions, images = _split(options.data, options.split)
    real: PictureSet = Pictures(images) if options.reference is None else open_folder(options.reference)
    plan, settings = console.parse_sampler(options.plan)
    comparison = Comparison(judges, real, rules_of(options))
    comparison.check(options.num)
    prompts = _prompts(pipe, captions, options.num, options.seed)
    guidance = Guidance(options.guidance, options.guidance_schedule) if prompts is not None else None
    rows: list[Measure] = []
    for steps in options.steps:
        drawn = draw_pictures(
            pipe,
            prompts,
            options.num,
            Draw(steps, plan, guidance, options.temperature, options=settings, progress=True),
            options.seed,
        )
        print(f"{options.num} pictures of {steps} steps in {drawn.seconds:.1f} s of sampling")
        rows += comparison.rows(drawn.pictures, drawn.nfe, options.seed, drawn.idle_steps)
    how = {"sampler": " ".join(options.plan or [pipe.law]), "guidance": None if guidance is None else str(guidance)}
    return stamp(rows, data_hash=data_hash(options.data), **how)


def open_folder(folder: str, crop: int | None = None) -> PictureFiles:
    """The pictures of a folder, saying what of it is left out."""
    from mmprime.evaluation.images.sets import read_folder

    found = read_folder(folder, crop)
    console.warn(found.note)
    return found


def _split(data: str, split: str) -> tuple[list[str], Tensor]:
    """Captions and images of a split, or of all splits whose names start so."""
    import torch

    from mmprime.data import ImageDataset
    from mmprime.evaluation.datasets import splits_of

    parts = [ImageDataset.load(data, name) for name in splits_of(data, split)]
    return [caption for part in parts for caption in part.captions], torch.cat([part.images for part in parts])


def _prompts(pipe: Pipeline, captions: list[str], num: int, seed: int) -> list[str] | None:
    """`num` captions drawn by seed (each at most once while they last), or None for a model without text."""
    from mmprime.evaluation.datasets import choose, fitting

    if pipe.model.config.num_classes is not None and not pipe.canvas.has("text"):
        raise ValueError("this model draws for class labels, not captions: use the command imagenet")
    if not pipe.canvas.has("text"):
        return None
    captions = [captions[place] for place in fitting(pipe, captions)]
    whole, rest = divmod(num, len(captions))
    picks = [*range(len(captions))] * whole + choose(len(captions), rest, seed)
    return [captions[index] for index in picks]


class Drawn(NamedTuple):
    """pictures; nfe: mean forward passes of one; idle_steps: see `idle_share`."""

    pictures: Pictures
    nfe: float
    idle_steps: float | None
    seconds: float


def draw_pictures(pipe: Pipeline, prompts: list[str] | None, num: int, draw: Draw, seed: int) -> Drawn:
    """`num` pictures, one for each prompt; picture i depends on seed and i only."""
    from dataclasses import replace

    import torch

    from mmprime.engine import mix
    from mmprime.evaluation.images.sets import Pictures

    images, nfe, idle, seconds = [], [], [], 0.0
    for start in range(0, num, _AT_ONCE):
        stop = min(start + _AT_ONCE, num)
        seeds = [mix(seed, number) for number in range(start, stop)]
        own = replace(draw, seed=seeds)
        asked = None if prompts is None else prompts[start:stop]
        found = pipe.generate(asked, 1 if asked else stop - start, own)
        images.append((found.images.cpu() * 255).round().byte())
        nfe.append(found.nfe.double().cpu())
        idle.append(steps_unused(draw, found.rank))
        seconds += found.seconds
    mean = float(torch.cat(nfe).mean())
    return Drawn(Pictures(torch.cat(images)), mean, idle_share(draw, torch.cat(idle)), seconds)


def steps_unused(draw: Draw, rank: Tensor) -> Tensor:
    """(B,) of the steps of an ancestral plan, those at which an example revealed nothing, also after its last reveal; 0
    of other samplers."""
    import torch

    if draw.plan != "ancestral":
        return torch.zeros(len(rank), dtype=torch.int64)
    used = torch.zeros(len(rank), draw.steps + 1, dtype=torch.bool)
    return draw.steps - used.scatter(1, rank.cpu().clamp(min=0), True)[:, 1:].sum(-1)


def idle_share(draw: Draw, idle_steps: Tensor) -> float | None:
    """Mean share of the sampler's steps at which examples revealed nothing, of `steps_unused` (B,).

    Ancestral plans have such steps; plans that cut an order into steps by count have none; of policies that decide
    while sampling it is not known here (None).
    """
    if draw.plan in _BY_COUNT:
        return 0.0
    return float(idle_steps.double().mean()) / draw.steps if draw.plan == "ancestral" else None
