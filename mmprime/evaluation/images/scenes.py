"""Do generated scenes show both objects, each where its caption has it? After GenEval (arXiv 2310.11513), without a
detector: the renderer's own windows are cut out and the nearest real drawing, at half size too, names what is in each.

    right = caption(nearest(window of the first)) = caption of the first, and so the second

Ceiling: composed scenes of real drawings, each window among the drawings of all other vendors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmprime.data import ImageDataset
from mmprime.data.sources.scenes import Scene, compose, half_size, object_windows
from mmprime.engine import generator_of

from .captions import Accuracy, Gallery
from .extractors import FeatureExtractor
from .sets import PictureArray


class SceneReader:
    """Names what lies in the two windows of scenes, by the nearest of a data set's drawings at half size."""

    def __init__(self, network: FeatureExtractor, real: ImageDataset) -> None:
        self.network, self.real, self.halves = network, real, half_size(real.images)
        features = network.cached_features(PictureArray(self.halves), progress=True).features
        self.gallery = Gallery(features, real.captions, real.vendors)

    def read(
        self, images: Tensor, scenes: Sequence[Scene], captions: Sequence[str], vendors: Sequence[str] | None = None
    ) -> list[tuple[bool, bool]]:
        """Whether the first and the second object of scenes (m, 3, S, S) uint8 are named right; vendors: of the
        drawings they are made of, which are then left out."""
        first, second = object_windows(images, scenes)
        features = self.network.features(PictureArray(torch.cat([first, second])), progress=True).features
        wanted = [captions[s.first] for s in scenes] + [captions[s.second] for s in scenes]
        right = self.gallery.right(features, wanted, None if vendors is None else [*vendors, *vendors])
        return list(zip(right[: len(scenes)], right[len(scenes) :]))

    def real_scenes(self, scenes: Sequence[Scene], captions: Sequence[str], seed: int) -> tuple[Tensor, list[str]]:
        """The same scenes of real drawings, each by a vendor that draws both, drawn by seed, and these vendors; a scene
        that nobody draws stays white and is of no vendor."""
        known: dict[str, dict[str, int]] = {}
        for number, (caption, vendor) in enumerate(zip(self.real.captions, self.real.vendors)):
            known.setdefault(caption, {}).setdefault(vendor, number)
        generator, made, vendors = generator_of(seed), [], []
        for scene in scenes:
            first, second = known[captions[scene.first]], known[captions[scene.second]]
            both = [vendor for vendor in first if vendor in second]
            vendors.append(both[int(torch.randint(len(both), (), generator=generator))] if both else "")
            made.append(Scene(first[vendors[-1]], second[vendors[-1]], scene.relation) if both else None)
        images = torch.full((len(scenes), *self.real.images.shape[1:]), 255, dtype=torch.uint8)
        drawn = [number for number, scene in enumerate(made) if scene is not None]
        images[drawn] = compose(self.halves, [scene for scene in made if scene is not None])
        return images, vendors


def summary(read: Sequence[tuple[bool, bool]]) -> Iterator[tuple[str, Accuracy]]:
    """Both objects in relation, and single objects in their windows."""
    yield "both objects in relation", Accuracy.of([first and second for first, second in read])
    yield "an object in its window", Accuracy.of([right for pair in read for right in pair])
