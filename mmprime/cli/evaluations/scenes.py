"""Scenes of two objects, left, right, above, below: are both drawn, each where the caption has it?"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import sampling
from .captions import add_model_arguments, gallery_set

if TYPE_CHECKING:
    from mmprime.data.sources.scenes import Scene
    from mmprime.evaluation import Measure
    from mmprime.generation.pipeline import Pipeline

HELP = "do generated scenes of two objects show both, each on its side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    add_model_arguments(parser, "scenes of captions seen in training", 200)


def run(options: argparse.Namespace) -> list[Measure]:
    """Accuracy of generated scenes, of real ones, and what swapped windows give."""
    from mmprime.data import ImageDataset
    from mmprime.data.sources.scenes import Scene
    from mmprime.engine import Guidance, mix
    from mmprime.evaluation import Measure, stamp
    from mmprime.evaluation.images.extractors import effnet
    from mmprime.evaluation.images.scenes import SceneReader, summary
    from mmprime.evaluation.provenance import data_hash
    from mmprime.evaluation.sample_cost import idle_share, steps_unused
    from mmprime.generation.pipeline import from_pretrained

    sampling.given_sampling(options)  # refuse before anything is loaded
    network = effnet()
    pipe = from_pretrained(options.model)
    data = gallery_set(pipe, options.data)
    real = ImageDataset.load(data)
    captions = sorted({caption for caption, split in zip(real.captions, real.splits) if split == "train"})
    scenes = fitting_scenes(pipe, captions, options.num, options.seed)
    prompts = [scene.caption(captions) for scene in scenes]
    reader = SceneReader(network, real)
    config, name = sampling.measured_sampling(options, pipe, "image")
    config = replace(config, seed=[mix(options.seed, number) for number in range(len(prompts))])
    result = pipe.generate(prompts, 1, config)
    drawn = (result.images.cpu() * 255).round().byte()
    swapped = [Scene(scene.second, scene.first, scene.relation) for scene in scenes]
    composed, vendors = reader.real_scenes(scenes, captions, options.seed)
    several = len(set(real.vendors)) > 1
    read = {
        "generated": reader.read(drawn, scenes, captions),
        "generated, in the opposite relation": reader.read(drawn, swapped, captions),
        "ceiling: real drawings": reader.read(composed, scenes, captions, vendors if several else None),
    }
    rows = [
        Measure(f"{kind}, {what}", share.value, share.stderr, "share", share.count, 0, options.seed)
        for what, pairs in read.items()
        for kind, share in summary(pairs)
    ]
    nfe, idle = float(result.nfe.double().mean()), idle_share(config, steps_unused(config, result.rank))
    rows[0] = replace(rows[0], nfe=nfe, idle_steps=idle)
    origin = {"data_hash": data_hash(data), "reference_hash": network.fingerprint, "sampler": name}
    return stamp(rows, guidance=str(Guidance.of(config.guidance)), **origin)


def fitting_scenes(pipe: Pipeline, captions: list[str], count: int, seed: int) -> list[Scene]:
    """Scenes drawn by seed, passing over those whose caption the model's text span does not hold. Raises ValueError
    when these are too many."""
    from mmprime.data.sources.scenes import choose_scenes

    every = choose_scenes(captions, 4 * count, "evaluate", seed)
    scenes = [scene for scene in every if pipe.holds(scene.caption(captions))][:count]
    if len(scenes) < count:
        raise ValueError(f"the model's text span holds {len(scenes)} of {len(every)} scenes; --num {count} is too many")
    return scenes
