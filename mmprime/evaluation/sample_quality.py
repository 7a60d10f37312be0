"""What samples are worth, the same for a benchmark and a study: pictures by EfficientNet-Lite0, texts by SmolLM2.

Each turns samples into rows; what they are compared with is loaded once. A row says nothing of how the samples came
about: the caller stamps sampler, seed and model on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .images import fidelity
from .images.captions import Gallery
from .images.sets import PictureArray
from .metric import Measure


class PictureQuality:
    """Compares pictures with the training split of an image dataset folder.

    Kernel distance (unbiased) and Fréchet distance (biased upwards at few pictures: compare equal counts only), both on
    EfficientNet-Lite0 features, and the caption accuracy of the nearest real drawing where captions are given.
    """

    def __init__(self, folder: str | Path) -> None:
        from mmprime.data import ImageDataset

        from .images.extractors import effnet

        self.extractor, data = effnet(), ImageDataset.load(folder)
        features = self.extractor.cached_features(PictureArray(data.images), progress=True).features
        train = torch.tensor([split == "train" for split in data.splits])
        self.known, self.reference = features[train], fidelity.moments(features[train])
        self.gallery = Gallery(features, data.captions, data.vendors)
        self.train_captions = [caption for caption, split in zip(data.captions, data.splits) if split == "train"]

    def rows(
        self, images: Tensor, nfe: float, seed: int | None = None, captions: Sequence[str] | None = None
    ) -> list[Measure]:
        """images (n, 3, H, W) in [0, 1], with their captions if they have any."""
        features, num = self.extractor.features(PictureArray((images.cpu() * 255).round().byte())).features, len(images)
        kernel = fidelity.kernel_distance(features, self.known, fidelity.subset_size((num, len(self.known))))
        far = fidelity.frechet(fidelity.moments(features), self.reference)
        rows = [
            Measure("KID-EffNet-Lite0", kernel.value, kernel.stderr, fidelity.KERNEL_UNIT, num, nfe, seed),
            Measure("FD-EffNet-Lite0", far.value, far.stderr, fidelity.FRECHET_UNIT, num, nfe, seed),
        ]
        if captions is not None:
            near = self.gallery.accuracy(features, captions)
            rows.append(Measure("caption accuracy", near.value, near.stderr, "share", num, nfe, seed))
        return rows


class TextQuality:
    """Scores texts by SmolLM2; the entropy of a text stands beside, since repetition is read with ease."""

    def __init__(self) -> None:
        from .text.causal_lm import LanguageModelScorer

        self.scorer = LanguageModelScorer.load()

    def rows(self, texts: Sequence[str], nfe: float, seed: int | None = None) -> list[Measure]:
        """Generative perplexity, bits per byte and unigram entropy of texts."""
        from .text.diversity import diversity, words

        scored, varied = self.scorer.score(texts), diversity([words(text) for text in texts])
        values = [
            ("generative perplexity", *scored.perplexity, "perplexity"),
            ("bits per byte", *scored.bits_per_byte, "bits/byte"),
            ("unigram entropy of a text", *varied.entropy, "nats/word"),
        ]
        return [Measure(name, value, error, unit, len(texts), nfe, seed) for name, value, error, unit in values]
