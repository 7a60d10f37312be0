"""Caption accuracy: does the nearest real drawing of a generated one carry its caption?

    accuracy = mean_i [ caption(argmax_j cos(f(generated_i), f(real_j))) = caption_i ]

Ceiling: a real drawing in place of the generated one, compared with the drawings of all other vendors; the mean over
captions of the share of a caption's drawings that are right, so that no draw is in it. Chance: the share of real
drawings that carry the caption. Features are those of EfficientNet-Lite0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmprime.engine import generator_of


@dataclass(frozen=True)
class Accuracy:
    """A share with its standard error over `count` decisions or captions."""

    value: float
    stderr: float
    count: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Accuracy:
        """Of single decisions, with the binomial standard error. Raises ValueError on no decision."""
        if not hits:
            raise ValueError("nothing to decide")
        share = sum(hits) / len(hits)
        return cls(share, math.sqrt(share * (1 - share) / len(hits)), len(hits))


@dataclass(frozen=True)
class Gallery:
    """Real drawings: features (n, d), caption and vendor of each."""

    features: Tensor
    captions: list[str]
    vendors: list[str]

    def nearest(self, queries: Tensor, allowed: Tensor | None = None) -> list[int]:
        """Index of the drawing of the highest cosine for each of queries (m, d); allowed (m, n) bool."""
        gallery = torch.nn.functional.normalize(self.features.float(), dim=-1)
        cosine = torch.nn.functional.normalize(queries.float(), dim=-1) @ gallery.T
        if allowed is not None:
            cosine = cosine.masked_fill(~allowed, -math.inf)
        return cosine.argmax(-1).tolist()

    def right(
        self, features: Tensor, captions: Sequence[str], vendors: Sequence[str] | None = None, batch: int = 512
    ) -> list[bool]:
        """For each of pictures with these features (m, d), made for these captions, whether the nearest drawing carries
        its caption; vendors: each is compared with the drawings of all vendors but this one."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys([*self.vendors, *(vendors or ())]))}
        owner = torch.tensor([numbers[name] for name in self.vendors])
        excluded = None if vendors is None else torch.tensor([numbers[name] for name in vendors])
        nearest: list[int] = []
        for start in range(0, len(features), batch):
            allowed = None if excluded is None else excluded[start : start + batch, None] != owner
            nearest += self.nearest(features[start : start + batch], allowed)
        return [self.captions[j] == caption for j, caption in zip(nearest, captions)]

    def accuracy(
        self, features: Tensor, captions: Sequence[str], vendors: Sequence[str] | None = None, batch: int = 512
    ) -> Accuracy:
        """The share that `right` finds."""
        return Accuracy.of(self.right(features, captions, vendors, batch))

    def ceiling(self, captions: Collection[str]) -> Accuracy:
        """Of all real drawings of each caption, each among the drawings of all other vendors; ± over captions.

        Raises ValueError on no caption, on one without a drawing, and when there is one vendor only.
        """
        if len(set(self.vendors)) < 2:
            raise ValueError("all drawings are of one vendor, so there is no other to compare with")
        hits: dict[str, list[bool]] = {caption: [] for caption in sorted(captions)}
        queries = [index for index, caption in enumerate(self.captions) if caption in hits]
        owners, named = ([names[index] for index in queries] for names in (self.vendors, self.captions))
        for caption, right in zip(named, self.right(self.features[queries], named, owners)):
            hits[caption].append(right)
        bare = [caption for caption, decided in hits.items() if not decided]
        if bare or not hits:
            raise ValueError(f"no real drawing carries the caption {bare[0]!r}" if bare else "nothing to decide")
        shares = torch.tensor([sum(decided) / len(decided) for decided in hits.values()], dtype=torch.float64)
        return Accuracy(float(shares.mean()), float(shares.std(correction=0)) / math.sqrt(len(shares)), len(shares))

    def kept(self, features: Tensor, originals: Sequence[int]) -> Iterator[tuple[str, Accuracy]]:
        """Whether pictures (m, d) made of the drawings of these numbers still show their captions: among all drawings,
        the original too, and among those of other vendors, where the original's own share is the ceiling."""
        pairs = [(row, number) for row, number in enumerate(originals) if self.captions[number].strip()]
        if not pairs:
            return
        rows, numbers = (list(each) for each in zip(*pairs))
        captions, vendors = ([names[number] for number in numbers] for names in (self.captions, self.vendors))
        yield "caption kept, own original in the gallery", self.accuracy(features[rows], captions)
        if len(set(self.vendors)) > 1:
            yield "caption kept, against other vendors", self.accuracy(features[rows], captions, vendors)
            real = self.accuracy(self.features[numbers], captions, vendors)
            yield "ceiling: the originals, against other vendors", real

    def chance(self, captions: Sequence[str]) -> float:
        """Accuracy of drawings picked blindly."""
        share = {caption: self.captions.count(caption) / len(self.captions) for caption in set(captions)}
        return sum(share[caption] for caption in captions) / len(captions)


def choose_captions(
    captions: Sequence[str], count: int, seed: int = 0, allowed: Collection[str] | None = None
) -> list[str]:
    """`count` different captions, drawn by seed, passing over all but the allowed. Raises ValueError if too few."""
    known = sorted(set(captions))
    order = torch.randperm(len(known), generator=generator_of(seed))
    chosen = [known[index] for index in order.tolist() if allowed is None or known[index] in allowed]
    if count > len(chosen):
        raise ValueError(f"asked for {count} captions, the data has {len(chosen)}")
    return chosen[:count]
