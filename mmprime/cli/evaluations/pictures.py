"""What the commands that compare pictures share: the metrics asked for, the rules, folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmprime.io import warn

from .. import console

if TYPE_CHECKING:
    from mmprime.evaluation.images.batches import ReferenceBatch
    from mmprime.evaluation.images.comparison import Rules
    from mmprime.evaluation.images.sets import PictureFiles, PictureSet


def add_metric_arguments(
    parser: argparse.ArgumentParser,
    default: str | None,
    known: str = "fid,sfid,kid,is,prc,fd-effnet-lite0,kid-...,prc-..., or none",
) -> None:
    """What every command that compares pictures asks; known: the metrics there are."""
    parser.add_argument("--metric", default=default, help=known)
    parser.add_argument("--inception", metavar="FILE", help="weights of the Inception network ($MMPRIME_INCEPTION)")
    parser.add_argument("--kid-subset-size", type=console.positive, help="default: half of the set, at most 1000")
    parser.add_argument("--allow-few", action="store_true", help="a Fréchet distance of fewer pictures than features")


def add_npz_argument(parser: argparse.ArgumentParser) -> None:
    """--npz, of the commands that generate pictures."""
    parser.add_argument("--npz", type=console.out_file, metavar="FILE.npz", help="also write the pictures as arr_0")


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


def open_pictures(path: str) -> PictureSet:
    """The pictures of a folder or of an .npz batch."""
    from mmprime.evaluation.images.batches import read_pictures

    return read_pictures(path) if Path(path).suffix == ".npz" else open_folder(path)


def open_reference(path: str | None, size: int | None = None) -> ReferenceBatch:
    """A reference: a folder, whose pictures are cropped to size, or an .npz batch, whose pictures must have it."""
    from mmprime.evaluation.images.batches import ReferenceBatch, read_batch

    if path is not None and Path(path).suffix == ".npz":
        return read_batch(path, size)
    return ReferenceBatch(None if path is None else open_folder(path, size), {})


def write_npz(file: str | None, pictures: PictureSet) -> None:
    """Write what --npz asks for."""
    from mmprime.evaluation.images.batches import write_batch

    if file is not None:
        write_batch(file, pictures)
        print(f"{len(pictures)} pictures in {file}")
