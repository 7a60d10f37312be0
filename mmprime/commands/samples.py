"""Fréchet distance of two folders of pictures: FID, or --metric fd-effnet-lite0."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmprime.evaluation import Measure

HELP = "Fréchet distance of two folders of pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--generated", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--metric", choices=("fid", "fd-effnet-lite0"), default="fid")
    parser.add_argument("--inception", help="the file of Inception weights, for fid")


def run(options: argparse.Namespace) -> list[Measure]:
    """The Fréchet distance of two folders."""
    from mmprime.evaluation import Measure
    from mmprime.evaluation.frechet import METRICS, check_inception, frechet_distance, read_folder

    if options.metric == "fid":
        check_inception(options.inception)
    generated, reference = read_folder(options.generated), read_folder(options.reference)
    value = frechet_distance(generated, reference, options.metric, options.inception)
    name = f"{METRICS[options.metric]} ({len(generated)} generated, {len(reference)} reference)"
    return [Measure(name, value, None, "squared distance", len(generated), 0, options.seed)]
