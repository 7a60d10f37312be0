"""Generated pictures against reference pictures, by every metric asked for: rows of a report.

With the Inception judge the names are FID, KID, Inception Score; with EfficientNet-Lite0 they carry its name, and the
numbers must not be compared with FIDs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..metric import Measure
from ..provenance import DIGITS
from . import extractors as judges
from . import fidelity
from .extractors import Judge, Seen
from .fidelity import Value
from .sets import PictureSet, Statistics

FRECHET, KERNEL, SCORE, NEIGHBOURS = "Fréchet distance", "kernel distance", "score", "precision and recall"
_SUFFIX = "-effnet-lite0"
METRICS = {
    "fid": (FRECHET, "FID"),
    "kid": (KERNEL, "KID"),
    "is": (SCORE, "Inception Score"),
    "prc": (NEIGHBOURS, "-Inception"),
    f"fd{_SUFFIX}": (FRECHET, "FD-EffNet-Lite0"),
    f"kid{_SUFFIX}": (KERNEL, "KID-EffNet-Lite0"),
    f"prc{_SUFFIX}": (NEIGHBOURS, "-EffNet-Lite0"),
}


def parse_metrics(text: str) -> list[str]:
    """Names separated by commas, in their order, once each. Raises ValueError naming what is unknown."""
    names = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
    if not names:
        raise ValueError(f"no metric asked for; there are {', '.join(METRICS)}")
    return names


@dataclass(frozen=True)
class Rules:
    """kid_subset_size: None is half of the smaller set, at most 1000. allow_few: a Fréchet distance of deficient rank.

    batch: pictures a judge looks at together.
    """

    kid_subset_size: int | None = None
    allow_few: bool = False
    batch: int = 32
    progress: bool = False


class Judges:
    """The judges that some metrics need, loaded. Raises ValueError as `judges.inception` and `judges.effnet` do."""

    def __init__(self, metrics: Sequence[str], inception: str | None = None) -> None:
        self.metrics = list(metrics)
        own = [name.endswith(_SUFFIX) for name in self.metrics]
        self._inception = None if all(own) else judges.inception(inception)
        self._effnet = judges.effnet() if any(own) else None

    def of(self, metric: str) -> Judge:
        judge = self._effnet if metric.endswith(_SUFFIX) else self._inception
        assert judge is not None
        return judge


class Comparison:
    """Metrics of generated pictures against one reference, which each judge looks at once.

    reference: None is enough for the Inception Score alone. statistics: Inception's mean and covariance of the
    reference's source, which then stand in for `reference` in FID.
    """

    def __init__(
        self,
        judges: Judges,
        reference: PictureSet | None,
        rules: Rules | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self.judges, self.reference, self.rules = judges, reference, rules or Rules()
        self.statistics = statistics if "fid" in judges.metrics else None
        self._seen: dict[str, Seen] = {}
        self._moments: dict[str, Statistics] = {}
        self._hash = "" if reference is None else reference.fingerprint()
        bare = [name for name in judges.metrics if METRICS[name][0] != SCORE and reference is None]
        if bare:
            raise ValueError(f"{', '.join(bare)} compare with real pictures: give --reference")

    def check(self, count: int) -> None:
        """Raises ValueError when `count` generated pictures, or the reference, are too few for a metric."""
        counts = (count,) if self.reference is None else (count, len(self.reference))
        for name in self.judges.metrics:
            kind = METRICS[name][0]
            if kind == FRECHET:
                whole = name == "fid" and self.statistics is not None
                width = self.judges.of(name).width
                fidelity.check_frechet(counts[:1] if whole else counts, width, self.rules.allow_few)
            elif kind == KERNEL:
                fidelity.subset_size(counts, self.rules.kid_subset_size)
            elif kind == NEIGHBOURS:
                fidelity.check_neighbours(counts)
            else:
                fidelity.check_score(count)

    def rows(
        self, generated: PictureSet, nfe: float, seed: int | None, idle_steps: float | None = None
    ) -> list[Measure]:
        """A row or two for each metric. Raises ValueError as `check` does, and on features that are no numbers."""
        self.check(len(generated))
        seen: dict[str, Seen] = {}
        rows = []
        for name in self.judges.metrics:
            judge = self.judges.of(name)
            if judge.name not in seen:
                seen[judge.name] = judges.look(judge, generated, self.rules.batch, self.rules.progress)
            for metric, found, unit in self._values(name, judge, seen[judge.name]):
                rows.append(
                    Measure(
                        f"{metric} ({self._counts(name, len(generated))})",
                        found.value,
                        found.stderr,
                        unit,
                        len(generated),
                        nfe,
                        seed,
                        idle_steps,
                        reference_hash=self._reference_hash(name, judge),
                    )
                )
        return rows

    def _values(self, name: str, judge: Judge, seen: Seen) -> list[tuple[str, Value, str]]:
        kind, title = METRICS[name]
        if kind == SCORE:
            assert seen.logits is not None
            score, deviation = fidelity.inception_score(seen.logits)
            spread = f"deviation of the {fidelity.SPLITS} splits of the {title}"
            return [(title, score, "classes"), (spread, Value(deviation, None), "classes")]
        if kind == FRECHET:
            few = "" if len(seen.features) > judge.width else f", biased: few for {judge.width} features"
            distance = fidelity.frechet(fidelity.moments(seen.features), self._reference_moments(name, judge))
            return [(title + few, distance, "squared distance")]
        real = self._reference_seen(judge).features
        if kind == KERNEL:
            size = fidelity.subset_size((len(seen.features), len(real)), self.rules.kid_subset_size)
            return [(title, fidelity.kernel_distance(seen.features, real, size), "squared MMD")]
        precision, recall = fidelity.precision_recall(seen.features, real)
        return [(f"precision{title}", precision, "share"), (f"recall{title}", recall, "share")]

    def _reference_seen(self, judge: Judge) -> Seen:
        if judge.name not in self._seen:
            assert self.reference is not None
            self._seen[judge.name] = judges.look_once(judge, self.reference, self.rules.batch, self.rules.progress)
        return self._seen[judge.name]

    def _reference_moments(self, name: str, judge: Judge) -> Statistics:
        if name == "fid" and self.statistics is not None:
            return self.statistics
        if judge.name not in self._moments:
            self._moments[judge.name] = fidelity.moments(self._reference_seen(judge).features)
        return self._moments[judge.name]

    def _counts(self, name: str, count: int) -> str:
        if name == "fid" and self.statistics is not None:
            return f"{count} generated, stored mean and covariance"
        alone = METRICS[name][0] == SCORE or self.reference is None
        return f"{count} generated" if alone else f"{count} generated, {len(self.reference or ())} reference"

    def _reference_hash(self, name: str, judge: Judge) -> str:
        """Of the judge's weights and of what it compared with: rows that differ in it must not be compared."""
        source = self._hash if METRICS[name][0] != SCORE else ""
        if name == "fid" and self.statistics is not None:
            source = self.statistics.fingerprint
        return hashlib.sha256(f"{judge.fingerprint} {source}".encode()).hexdigest()[:DIGITS]
