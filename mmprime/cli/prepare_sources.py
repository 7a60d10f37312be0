"""The commands of `mmprime prepare` that read pictures and texts as they are: emoji, sotu, wordnet, text, folder,
fashion; that export them; and that make more of a dataset of pictures: scenes, views."""

from __future__ import annotations

import argparse
from typing import Any


def print_index(index: dict[str, Any], out: str) -> None:
    """One line of what a dataset folder holds."""
    splits = ", ".join(f"{name} {count:,}" for name, count in index["splits"].items())
    size = sum(entry["bytes"] for entry in index["shards"])
    print(f"{out}: {splits}; {len(index['shards'])} shards, {size:,} bytes")


def emoji(options: argparse.Namespace) -> None:
    """Render the emoji set."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ValueError("rendering needs resvg-py: pip install 'mmprime[prepare]'") from error
    from mmprime.data.sources.emoji import prepare_emoji

    where = options.iconify, options.emojibase, options.out
    print_index(prepare_emoji(*where, options.size, workers=options.workers, progress=True), options.out)


def sotu(options: argparse.Namespace) -> None:
    """Shard the State of the Union addresses."""
    from mmprime.data.text import prepare_sotu

    print_index(prepare_sotu(options.package, options.out, options.split_fraction, True), options.out)


def wordnet(options: argparse.Namespace) -> None:
    """Shard WordNet."""
    from mmprime.data.sources.wordnet import prepare_wordnet

    how = options.examples_only, options.split_fraction
    print_index(prepare_wordnet(options.dict, options.out, *how, progress=True), options.out)


def text(options: argparse.Namespace) -> None:
    """Shard plain text."""
    from mmprime.data.text import prepare_text

    index = prepare_text(
        options.paths, options.out, options.split_fraction, options.per, options.licence, progress=True
    )
    print_index(index, options.out)


def image_folder(options: argparse.Namespace) -> None:
    """Shard a folder of pictures."""
    from mmprime.data.images import prepare_folder

    index = prepare_folder(
        options.images, options.out, options.size, options.split_fraction, options.licence, True, say=print
    )
    print_index(index, options.out)


def features(options: argparse.Namespace) -> None:
    """Features of pictures."""
    from mmprime.data import ImageDataset
    from mmprime.training.alignment import picture_features, save_features

    data, grid = ImageDataset.load(options.images, options.split), (options.grid, options.grid)
    vectors = picture_features(data.images, options.weights, options.model, grid, options.size or 0)
    save_features(options.out, vectors, data.keys)
    print(f"{options.out}: {len(vectors):,} pictures, {vectors.shape[1]} vectors of {vectors.shape[2]} numbers each")


def fashion_mnist(options: argparse.Namespace) -> None:
    """Shard Fashion-MNIST."""
    from mmprime.data.sources.fashion import prepare_fashion

    print_index(prepare_fashion(options.package, options.out, progress=True), options.out)


def scenes(options: argparse.Namespace) -> None:
    """Compose scenes of two drawings."""
    from mmprime.data.sources.scenes import prepare_scenes

    where = options.images, options.out
    print_index(prepare_scenes(*where, options.count, options.seed, options.with_drawings, True), options.out)


def views(options: argparse.Namespace) -> None:
    """Add views of drawings."""
    from mmprime.data.sources.views import prepare_views

    how = options.copies, options.shift, options.seed, options.split
    print_index(prepare_views(options.images, options.out, *how), options.out)


def saved_dataset(options: argparse.Namespace) -> None:
    """Shard a data set of the package datasets."""
    from mmprime.data.sources.huggingface import Columns, prepare_saved

    columns = Columns(options.image, options.text, options.label)
    index = prepare_saved(
        options.path, options.out, options.size, columns, options.split_fraction, options.licence, progress=True
    )
    print_index(index, options.out)


def export(options: argparse.Namespace) -> None:
    """Write shards as a data set of the package datasets."""
    from mmprime.data.sources.huggingface_export import export_saved

    splits = export_saved(options.data, options.out)
    print(f"{options.out}: {', '.join(f'{name} {count:,}' for name, count in splits.items())}")


def index_of_tars(options: argparse.Namespace) -> None:
    """Index tars that others have written."""
    from mmprime.data.foreign import index_tars

    print_index(index_tars(options.folder, progress=True), options.folder)


def tokens(options: argparse.Namespace) -> None:
    """Tokenise a text dataset into rows."""
    from mmprime.data.tokens import prepare_tokens
    from mmprime.tokenizers import TextTokenizer

    if options.length is None:
        raise ValueError("--length has no value: the tokens of a row, data.text_length of the run")
    tokenizer = TextTokenizer.load(options.tokenizer)
    print_index(prepare_tokens(options.data, tokenizer, options.length, options.out, progress=True), options.out)
