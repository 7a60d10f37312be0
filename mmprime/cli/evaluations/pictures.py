"""What the commands that compare pictures share: the metrics asked for, the rules, folders."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mmprime.io import warn

from .. import console

if TYPE_CHECKING:
    from mmprime.evaluation.images.comparison import Rules
    from mmprime.evaluation.images.sets import PictureFiles


def add_metric_arguments(
    parser: argparse.ArgumentParser, default: str | None, known: str = "fid,kid,is,prc,fd-effnet-lite0,kid-...,prc-..."
) -> None:
    """What every command that compares pictures asks; known: the metrics there are."""
    parser.add_argument("--metric", default=default, help=known)
    parser.add_argument("--inception", metavar="FILE", help="weights of the Inception network ($MMPRIME_INCEPTION)")
    parser.add_argument("--kid-subset-size", type=console.positive, help="default: half of the set, at most 1000")
    parser.add_argument("--allow-few", action="store_true", help="a Fréchet distance of fewer pictures than features")


def rules_of(options: argparse.Namespace) -> Rules:
    """The options of `add_metric_arguments` as rules."""
    from mmprime.evaluation.images.comparison import Rules

    return Rules(options.kid_subset_size, options.allow_few, progress=True)


def open_folder(folder: str, crop: int | None = None) -> PictureFiles:
    """The pictures of a folder, saying what of it is left out."""
    from mmprime.evaluation.images.sets import read_folder

    pictures = read_folder(folder, crop)
    warn(pictures.note)
    return pictures
