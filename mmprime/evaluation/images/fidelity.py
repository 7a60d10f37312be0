"""Distances between two sets of features, computed by torch-fidelity, with what is known of their errors.

    Fréchet     d² = |μ_1 - μ_2|² + Tr(Σ_1 + Σ_2 - 2 (Σ_1 Σ_2)^{1/2})       Heusel et al., arXiv 1706.08500
    kernel      MMD² with k(x, y) = (x·y / d + 1)³, unbiased                Bińkowski et al., arXiv 1801.01401
    Inception   exp E_x KL(p(c | x) || p(c)), the mean over splits          Salimans et al., arXiv 1606.03498
    precision   share of the generated that lie within the ball of a real one, which reaches to its 3rd neighbour;
                recall the other way round                                  Kynkäänniemi et al., arXiv 1904.06991

The Fréchet distance is biased upwards for few pictures, so compare only at equal counts; the kernel distance is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sets import Statistics

SUBSETS, SPLITS, SPLIT, NEIGHBOURS = 100, 10, 5000, 3
FRECHET_UNIT, KERNEL_UNIT = "squared distance", "squared MMD"
_LARGEST_SUBSET, _SMALLEST_SUBSET, _SMALLEST_SPLIT = 1000, 25, 10


class Value(NamedTuple):
    """A number and its standard error (None: no honest one)."""

    value: float
    stderr: float | None


def moments(features: Tensor, fingerprint: str = "") -> Statistics:
    """Mean and unbiased covariance of features (n, d), in float64."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    statistics = fid_features_to_statistics(features.double())
    return Statistics(torch.from_numpy(statistics["mu"]), torch.from_numpy(statistics["sigma"]), fingerprint)


def frechet(generated: Statistics, reference: Statistics) -> Value:
    """Squared Fréchet distance. Raises ValueError on statistics of different widths."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if generated.mean.shape != reference.mean.shape:
        raise ValueError(
            f"features of width {len(generated.mean)} cannot be compared with statistics of width {len(reference.mean)}"
        )
    both = [{"mu": one.mean.numpy(), "sigma": one.covariance.numpy()} for one in (generated, reference)]
    return Value(float(fid_statistics_to_metric(*both, verbose=False)[KEY_METRIC_FID]), None)


def check_frechet(counts: Sequence[int], width: int, allow_few: bool = False) -> None:
    """Raises ValueError when a set has too few pictures for its covariance to have full rank."""
    few = min(counts)
    if few < 2:
        raise ValueError(f"{few} pictures have no covariance; at least two of each set are needed")
    if few <= width and not allow_few:
        raise ValueError(
            f"{few} pictures are fewer than needed for a Fréchet distance in {width} features, whose covariance takes "
            f"more than {width} of each set; take more, ask for a kid metric, or say --allow-few"
        )


def subset_size(counts: Sequence[int], asked: int | None = None) -> int:
    """Pictures in a subset of the kernel distance: half of the smaller set, at most 1000, unless asked otherwise.

    Raises ValueError when a set has fewer pictures than a subset.
    """
    size = min(min(counts) // 2, _LARGEST_SUBSET) if asked is None else asked
    if asked is None and size < _SMALLEST_SUBSET:
        raise ValueError(
            f"{min(counts)} pictures are too few for a kernel distance: {2 * _SMALLEST_SUBSET} of each set at least, "
            "or say how many with --kid-subset-size"
        )
    if not 2 <= size <= min(counts):
        raise ValueError(
            f"--kid-subset-size {size}: a subset takes 2 pictures at least, and the smaller set has {min(counts)}"
        )
    return size


def kernel_distance(generated: Tensor, reference: Tensor, size: int) -> Value:
    """Mean over `SUBSETS` random subsets of features (n, d) and (m, d), `size` of each.

    The error is the delete-d jackknife's: spread over subsets · sqrt(size / (n - size)), n of the smaller set. The
    spread itself, which is often printed, is not an error: it does not fall as pictures are added. None at n = size.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    left = min(len(generated), len(reference)) - size
    kernel = kid_features_to_metric(
        generated.double(),
        reference.double(),
        kid_subsets=SUBSETS if left else 1,
        kid_subset_size=size,
        verbose=False,
    )
    error = kernel[KEY_METRIC_KID_STD] * math.sqrt(size / left) if left else None
    return Value(float(kernel[KEY_METRIC_KID_MEAN]), error)


def check_score(count: int) -> None:
    """Raises ValueError when a split of the Inception Score has too few pictures to have a marginal."""
    if count < SPLITS * _SMALLEST_SPLIT:
        raise ValueError(
            f"{count} pictures are too few for an Inception Score over {SPLITS} splits; "
            f"it takes {SPLITS * _SMALLEST_SPLIT} at least"
        )


def score_splits(count: int) -> int:
    """Splits of an Inception Score: of 5,000 pictures as in ADM's evaluator, ten where there are not two of these."""
    return count // SPLIT if count >= 2 * SPLIT else SPLITS


def inception_score(logits: Tensor, shuffle: bool = True) -> tuple[Value, float]:
    """Mean over disjoint splits of logits (n, k) with its standard error, and the deviation of the splits.

    shuffle: whether pictures are put in a fixed random order first, which those sorted by class need; ADM's evaluator
    takes them as they come.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    splits = score_splits(len(logits))
    score = isc_features_to_metric(logits, splits=splits, shuffle=shuffle)
    deviation = float(score[KEY_METRIC_ISC_STD])
    return Value(float(score[KEY_METRIC_ISC_MEAN]), deviation / math.sqrt(splits - 1)), deviation


def check_neighbours(counts: Sequence[int]) -> None:
    """Raises ValueError when a picture has too few neighbours to make a ball."""
    if min(counts) <= NEIGHBOURS:
        raise ValueError(f"{min(counts)} pictures have no {NEIGHBOURS}rd neighbours; take {NEIGHBOURS + 1} at least")


def precision_recall(generated: Tensor, reference: Tensor) -> tuple[Value, Value]:
    """Precision and recall of features (n, d) against (m, d).

    Each error is binomial over the pictures that are tested, the balls of the other set held fixed.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    shares = prc_features_to_metric(generated, reference, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False)
    precision, recall = (float(shares[key]) for key in (KEY_METRIC_PRECISION, KEY_METRIC_RECALL))
    return _share(precision, len(generated)), _share(recall, len(reference))


def _share(value: float, count: int) -> Value:
    return Value(value, math.sqrt(value * (1 - value) / count))
