"""Generated pictures against reference pictures, by every metric asked for: rows of a report.

By Inception the names are FID, sFID, KID, Inception Score; by EfficientNet-Lite0 they carry its name, and the numbers
must not be compared with FIDs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..metric import Measure
from ..provenance import DIGITS
from . import extractors, fidelity
from .extractors import FeatureExtractor, Features
from .fidelity import Value
from .sets import PictureFiles, PictureSet, Statistics

FRECHET, KERNEL, SCORE, NEIGHBOURS = "Fréchet distance", "kernel distance", "score", "precision and recall"
_SUFFIX, _SPATIAL, NONE = "-effnet-lite0", "sfid", "none"
METRICS = {
    "fid": (FRECHET, "FID"),
    _SPATIAL: (FRECHET, "sFID"),
    "kid": (KERNEL, "KID"),
    "is": (SCORE, "Inception Score"),
    "prc": (NEIGHBOURS, "-Inception"),
    f"fd{_SUFFIX}": (FRECHET, "FD-EffNet-Lite0"),
    f"kid{_SUFFIX}": (KERNEL, "KID-EffNet-Lite0"),
    f"prc{_SUFFIX}": (NEIGHBOURS, "-EffNet-Lite0"),
}


def parse_metrics(text: str) -> list[str]:
    """Names separated by commas, in their order; none for "none". Raises ValueError naming what is unknown."""
    if text.strip().lower() == NONE:
        return []
    names = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
    if not names:
        raise ValueError(f"no metric asked for; there are {', '.join(METRICS)}, and {NONE}")
    return names


@dataclass(frozen=True)
class Rules:
    """kid_subset_size: None is half of the smaller set, at most 1000. allow_few: a Fréchet distance of deficient rank.

    batch: pictures that go through a network together.
    """

    kid_subset_size: int | None = None
    allow_few: bool = False
    batch: int = 32
    progress: bool = False


class Extractors:
    """The networks that some metrics need, loaded. Raises ValueError as `extractors.inception` and `effnet` do."""

    def __init__(self, metrics: Sequence[str], inception: str | None = None) -> None:
        self.metrics = list(metrics)
        by_effnet = [name.endswith(_SUFFIX) for name in self.metrics]
        self._inception = None if all(by_effnet) else extractors.inception(inception, _SPATIAL in metrics)
        self._effnet = extractors.effnet() if any(by_effnet) else None

    def of(self, metric: str) -> FeatureExtractor:
        network = self._effnet if metric.endswith(_SUFFIX) else self._inception
        assert network is not None
        return network


class Comparison:
    """Metrics of generated pictures against one reference, whose features are computed once.

    reference: None is enough for the Inception Score alone. statistics: by metric, fid and sfid, Inception's mean and
    covariance of the reference's source, which then stand in for `reference`.
    """

    def __init__(
        self,
        extractors: Extractors,
        reference: PictureSet | None,
        rules: Rules | None = None,
        statistics: Mapping[str, Statistics] | None = None,
    ) -> None:
        self.extractors, self.reference, self.rules = extractors, reference, rules or Rules()
        self.statistics = dict(statistics or {})
        self._features: dict[str, Features] = {}
        self._moments: dict[str, Statistics] = {}
        self._hash = "" if reference is None else reference.fingerprint()
        needing = [name for name in extractors.metrics if METRICS[name][0] != SCORE and name not in self.statistics]
        if needing and reference is None:
            raise ValueError(f"{', '.join(needing)} compare with real pictures: give --reference PATH that has them")

    def check(self, count: int) -> None:
        """Raises ValueError when `count` generated pictures, or the reference, are too few for a metric."""
        counts = (count,) if self.reference is None else (count, len(self.reference))
        for name in self.extractors.metrics:
            kind = METRICS[name][0]
            if kind == FRECHET:
                alone = name in self.statistics
                fidelity.check_frechet(counts[:1] if alone else counts, self._width(name), self.rules.allow_few)
            elif kind == KERNEL:
                fidelity.subset_size(counts, self.rules.kid_subset_size)
            elif kind == NEIGHBOURS:
                fidelity.check_neighbours(counts)
            else:
                fidelity.check_score(count)

    def rows(
        self,
        generated: PictureSet,
        nfe: float,
        seed: int | None,
        idle_steps: float | None = None,
        features: Mapping[str, Features] | None = None,
    ) -> list[Measure]:
        """A row or two for each metric. features: those of the generated that are known, by the network's name.

        Raises ValueError as `check` does, and on features that are no numbers.
        """
        self.check(len(generated))
        known = dict(features or {})
        rows = []
        for name in self.extractors.metrics:
            network = self.extractors.of(name)
            if network.name not in known:
                known[network.name] = network.features(generated, self.rules.batch, self.rules.progress)
            in_order = not isinstance(generated, PictureFiles)  # those of a folder may be sorted by class
            for metric, estimated, unit in self._values(name, network, known[network.name], in_order):
                rows.append(
                    Measure(
                        f"{metric} ({self._counts(name, len(generated))})",
                        estimated.value,
                        estimated.stderr,
                        unit,
                        len(generated),
                        nfe,
                        seed,
                        idle_steps,
                        reference_hash=self._reference_hash(name, network),
                    )
                )
        return rows

    def _values(
        self, name: str, network: FeatureExtractor, generated: Features, in_order: bool
    ) -> list[tuple[str, Value, str]]:
        kind, title = METRICS[name]
        if kind == SCORE:
            assert generated.logits is not None
            score, deviation = fidelity.inception_score(generated.logits, shuffle=not in_order)
            spread = f"deviation of the {fidelity.score_splits(len(generated.logits))} splits of the {title}"
            return [(title, score, "classes"), (spread, Value(deviation, None), "classes")]
        if kind == FRECHET:
            features, width = _compared(name, generated), self._width(name)
            few = "" if len(features) > width else f", biased: few for {width} features"
            distance = fidelity.frechet(fidelity.moments(features), self._reference_moments(name, network))
            return [(title + few, distance, fidelity.FRECHET_UNIT)]
        real = self._reference_features(network).features
        if kind == KERNEL:
            size = fidelity.subset_size((len(generated.features), len(real)), self.rules.kid_subset_size)
            return [(title, fidelity.kernel_distance(generated.features, real, size), fidelity.KERNEL_UNIT)]
        precision, recall = fidelity.precision_recall(generated.features, real)
        return [(f"precision{title}", precision, "share"), (f"recall{title}", recall, "share")]

    def _reference_features(self, network: FeatureExtractor) -> Features:
        if network.name not in self._features:
            assert self.reference is not None
            self._features[network.name] = network.cached_features(
                self.reference, self.rules.batch, self.rules.progress
            )
        return self._features[network.name]

    def _reference_moments(self, name: str, network: FeatureExtractor) -> Statistics:
        if name in self.statistics:
            return self.statistics[name]
        if name not in self._moments:
            self._moments[name] = fidelity.moments(_compared(name, self._reference_features(network)))
        return self._moments[name]

    def _width(self, name: str) -> int:
        network = self.extractors.of(name)
        return network.spatial_width if name == _SPATIAL else network.width

    def _counts(self, name: str, count: int) -> str:
        if name in self.statistics:
            return f"{count} generated, stored mean and covariance"
        alone = METRICS[name][0] == SCORE or self.reference is None
        return f"{count} generated" if alone else f"{count} generated, {len(self.reference or ())} reference"

    def _reference_hash(self, name: str, network: FeatureExtractor) -> str:
        """Of the network's weights and of what it compared with: rows that differ in it must not be compared."""
        source = self._hash if METRICS[name][0] != SCORE else ""
        if name in self.statistics:
            source = self.statistics[name].fingerprint
        return hashlib.sha256(f"{network.fingerprint} {source}".encode()).hexdigest()[:DIGITS]


def _compared(name: str, features: Features) -> Tensor:
    """What a Fréchet distance compares."""
    if name != _SPATIAL:
        return features.features
    assert features.spatial is not None
    return features.spatial
