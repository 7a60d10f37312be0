"""The frontier of a text model: generative perplexity against unigram entropy, a line per number of steps.

A temperature below 1 lowers both, so a single perplexity says nothing about a model; the curve does. A model is better
where its curve lies below at equal entropy. Real text and the same text with its words shuffled stand as anchors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..plots import new_figure, save_figure

_OFFSETS = ((5, 5), (5, -12), (-30, 5), (-30, -12))  # of labels, so that those of near curves do not overlap


@dataclass(frozen=True)
class Point:
    """One group of texts: entropy in nats and perplexity, each with a standard error or None.

    curve: the points of one curve are joined in the order of their entropy; None for an anchor.
    """

    label: str
    entropy: tuple[float, float | None]
    perplexity: tuple[float, float | None]
    curve: str | None = None


def plot_frontier(points: Sequence[Point], file: str | Path, units: str = "words", scorer: str = "the scorer") -> None:
    """Write the picture. Raises ValueError without a point, and as `require_plots` does."""
    if not points:
        raise ValueError("no point to draw")
    figure = new_figure(file, 6.4, 4.6)
    axes = figure.add_subplot()
    for curve, offset in zip(dict.fromkeys(point.curve for point in points), itertools.cycle(_OFFSETS)):
        joined = sorted((point for point in points if point.curve == curve), key=lambda point: point.entropy[0])
        line, *_ = axes.errorbar(
            [point.entropy[0] for point in joined],
            [point.perplexity[0] for point in joined],
            xerr=[point.entropy[1] or 0 for point in joined],
            yerr=[point.perplexity[1] or 0 for point in joined],
            fmt="o-" if curve is not None else "k*",
            capsize=2,
            label=curve,
        )
        for point in joined:
            where = (point.entropy[0], point.perplexity[0])
            axes.annotate(point.label, where, offset, textcoords="offset points", fontsize=8, color=line.get_color())
    axes.set_yscale("log")
    axes.set_xlabel(f"unigram entropy of a text, nats over {units}")
    axes.set_ylabel(f"generative perplexity by {scorer}")
    axes.grid(alpha=0.3, which="both")
    if any(point.curve is not None for point in points):
        axes.legend()
    save_figure(figure, file)
