"""The frontier of a text model: generative perplexity against unigram entropy, a line per number of steps.

A temperature below 1 lowers both, so a single perplexity says nothing about a model; the curve does. A model is better
where its curve lies below at equal entropy. Real text and the same text with its words shuffled stand as anchors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_OFFSETS = ((5, 5), (5, -12), (-30, 5), (-30, -12))  # of labels, so that those of near curves do not overlap
EXTRA = "pip install 'mmprime[plots]'"


@dataclass(frozen=True)
class Point:
    """One group of texts: entropy in nats and perplexity, each with a standard error or None.

    curve: the points of one curve are joined in the order of their entropy; None for an anchor.
    """

    label: str
    entropy: tuple[float, float | None]
    perplexity: tuple[float, float | None]
    curve: str | None = None


def require_matplotlib() -> None:
    """Raises ValueError naming the extra when matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"drawing needs matplotlib; it comes with the extra: {EXTRA}") from error


def draw(points: Sequence[Point], path: str | Path, units: str = "words", judge: str = "the judge") -> None:
    """Write the picture (the ending of `path` says which format).

    Raises ValueError without a point, without matplotlib, or for a format it does not know.
    """
    if not points:
        raise ValueError("no point to draw")
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    kinds = canvas.get_supported_filetypes()
    if Path(path).suffix.lstrip(".").lower() not in kinds:
        raise ValueError(f"{path}: a plot is one of {', '.join('.' + kind for kind in sorted(kinds))}")
    axes = figure.add_subplot()
    for curve, offset in zip(dict.fromkeys(point.curve for point in points), itertools.cycle(_OFFSETS)):
        own = sorted((point for point in points if point.curve == curve), key=lambda point: point.entropy[0])
        line, *_ = axes.errorbar(
            [point.entropy[0] for point in own],
            [point.perplexity[0] for point in own],
            xerr=[point.entropy[1] or 0 for point in own],
            yerr=[point.perplexity[1] or 0 for point in own],
            fmt="o-" if curve is not None else "k*",
            capsize=2,
            label=curve,
        )
        for point in own:
            where = (point.entropy[0], point.perplexity[0])
            axes.annotate(point.label, where, offset, textcoords="offset points", fontsize=8, color=line.get_color())
    axes.set_yscale("log")
    axes.set_xlabel(f"unigram entropy of a text, nats over {units}")
    axes.set_ylabel(f"generative perplexity by {judge}")
    axes.grid(alpha=0.3, which="both")
    if any(point.curve is not None for point in points):
        axes.legend()
    figure.savefig(path, dpi=150)
