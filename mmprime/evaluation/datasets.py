"""A dataset as what a pipeline's model scores: rows of its canvas, conditions, and sizes in bytes and pixels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmprime.data import CodeDataset, ImageDataset, encode_images, load_documents, pack_documents, read_index
from mmprime.data.codes import VENDORS, vendor_labels
from mmprime.data.plain_text import is_plain, plain_hash, plain_splits
from mmprime.engine import generator_of

from . import provenance
from .likelihood import ScoredRows, Sizes

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline
    from mmprime.tokenizers import TextTokenizer


def splits_of(data: str | Path, asked: str) -> list[str]:
    """The split of that name, or all whose names start so. Raises ValueError naming the splits there are.

    Plain text has no splits: it is scored as a whole, under the name of its file or folder, whatever is asked.
    """
    if is_plain(data):
        return plain_splits(data)
    known = list(read_index(data)["splits"])
    splits = [asked] if asked in known else [name for name in known if name.startswith(asked)]
    if not splits:
        raise ValueError(f"no split {asked!r} in {data}; it has {', '.join(known)}")
    return splits


def data_of(pipe: Pipeline | None, asked: str | None) -> Path:
    """The data asked for, else what the model was trained on. Raises ValueError when neither is said."""
    if asked:
        return Path(asked)
    if pipe is None or pipe.card.data is None:
        raise ValueError("the model does not say what it was trained on; give --data PATH")
    return pipe.card.data


def hash_of(data: str | Path) -> str:
    """16 hex digits of a dataset folder, or of plain text. Raises ValueError when `data` is neither."""
    return plain_hash(data) if is_plain(data) else provenance.data_hash(data)


def load_scored(pipe: Pipeline, data: str | Path, split: str, limit: int, seed: int = 0) -> ScoredRows:
    """At most `limit` examples of a split, drawn by seed. data: a dataset folder, or plain text for a text model.

    Raises ValueError when the data does not fit the model: another kind, grid, code book or tokenizer.
    """
    kind = "text" if is_plain(data) else read_index(data)["kind"]
    if (kind == "text") == pipe.canvas.has("image"):
        raise ValueError(f"{data} holds {kind!r}, the model has {[span.name for span in pipe.canvas.spans]}")
    return (
        _text_rows(pipe, data, split, limit, seed) if kind == "text" else _coded(pipe, data, split, limit, seed, kind)
    )


def choose_rows(count: int, limit: int, seed: int) -> list[int]:
    """At most `limit` of `count` positions, drawn by seed, in order."""
    order = torch.randperm(count, generator=generator_of(seed))
    return sorted(order[:limit].tolist())


def fitting(pipe: Pipeline, captions: Sequence[str]) -> list[int]:
    """Positions of the captions that are not blank and that the model's text span holds: all, for a model without text.
    Says what it leaves out.

    Training cuts longer ones; a number for a cut caption would be a number for another one.
    """
    if not pipe.canvas.has("text"):
        return list(range(len(captions)))
    room = {caption: pipe.holds(caption) for caption in set(captions)}
    if long := sorted(caption for caption, holds in room.items() if not holds):
        length = pipe.canvas.span("text").num_tokens
        print(f"left out: {len(long)} captions of more than {length - 1} tokens, such as {long[0]!r}", file=sys.stderr)
    if bare := sum(not caption.strip() for caption in captions):
        print(f"left out: {bare:,} of {len(captions):,} examples, which have no caption", file=sys.stderr)
    return [index for index, caption in enumerate(captions) if room[caption] and caption.strip()]


def _text_rows(pipe: Pipeline, data: str | Path, split: str, limit: int, seed: int) -> ScoredRows:
    tokenizer = pipe.text_tokenizer
    if tokenizer is None:
        raise ValueError("the model has no text tokenizer")
    rows = pack_documents(
        load_documents(data, split), tokenizer.encode, tokenizer.end_id, pipe.canvas.span("text").num_tokens
    )
    ids = rows[choose_rows(len(rows), limit, seed)]
    texts = [_row_texts(tokenizer, row) for row in ids.tolist()]
    sizes = torch.tensor([sum(len(text.encode()) + 1 for text in parts) - 1 for parts in texts])  # an end is a byte
    words = torch.tensor([sum(len(text.split()) for text in parts) for parts in texts])
    return ScoredRows(pipe.canvas.pack({"text": ids.to(pipe.device)}), None, Sizes(sizes, text_words=words))


def _coded(pipe: Pipeline, data: str | Path, split: str, limit: int, seed: int, kind: str) -> ScoredRows:
    if kind == "codes":
        coded = CodeDataset.load(data, split)
        dataset: CodeDataset | ImageDataset = coded
        every = _checked_codes(pipe, coded, data)
        pick = _choose_fitting(pipe, coded.captions, limit, seed)
        codes = every[pick]
    else:
        pictures = ImageDataset.load(data, split)
        dataset, pick = pictures, _choose_fitting(pipe, pictures.captions, limit, seed)
        if pipe.image_tokenizer is None:
            raise ValueError(f"{data} holds pictures and the model has no image tokenizer; give a folder of codes")
        codes = encode_images(pictures.images[pick], pipe.image_tokenizer)
    known = {"image": codes.long().to(pipe.device)}
    captions = [dataset.captions[index] for index in pick]
    text_bytes = text_words = text_tokens = None
    if pipe.canvas.has("text"):
        assert pipe.text_tokenizer is not None
        known["text"] = pipe.encode_captions(captions)
        text_tokens = pipe.text_tokenizer.count_tokens(known["text"]).cpu()
        text_bytes = torch.tensor([len(text.encode()) for text in captions])
        text_words = torch.tensor([len(text.split()) for text in captions])
    pixels = 3 * pipe.image_tokenizer.image_size**2 if pipe.image_tokenizer is not None else None
    cond = None
    labels = vendor_labels(dataset.vendors, pipe.card.classes) if pipe.card.labels == VENDORS else dataset.labels
    if (classes := pipe.model.config.num_classes) is not None and labels is not None:
        picked = labels[pick]
        cond = {"label": torch.where(picked < 0, classes, picked).to(pipe.device)}
    return ScoredRows(pipe.canvas.pack(known), cond, Sizes(text_bytes, pixels, text_words, text_tokens))


def _choose_fitting(pipe: Pipeline, captions: Sequence[str], limit: int, seed: int) -> list[int]:
    fit = fitting(pipe, captions)
    return [fit[index] for index in choose_rows(len(fit), limit, seed)]


def _checked_codes(pipe: Pipeline, dataset: CodeDataset, data: str | Path) -> Tensor:
    """The codes, or digits where they are kept so, if the model's own tokenizer made them."""
    tokenizer = pipe.image_tokenizer
    if tokenizer is not None and tokenizer.fingerprint() != dataset.tokenizer_fingerprint:
        raise ValueError(
            f"{data} was coded by tokenizer {dataset.tokenizer_fingerprint}, the model uses {tokenizer.fingerprint()}; "
            "encode the images again"
        )
    span = pipe.canvas.span("image")
    if dataset.tokens.ndim == 3 and span.codec.radices != dataset.radices:
        raise ValueError(f"{data} has digits {list(dataset.radices)}, the model {list(span.codec.radices)}")
    if (dataset.num_codes, dataset.grid) != (span.codec.num_codes, span.grid):
        raise ValueError(
            f"{data} has {dataset.num_codes} codes on a grid {dataset.grid}, "
            f"the model {span.codec.num_codes} on {span.grid}"
        )
    return dataset.tokens


def _row_texts(tokenizer: TextTokenizer, row: Sequence[int]) -> list[str]:
    """The pieces of documents in a row, cut at the ends."""
    texts, start = [], 0
    for end in [*[i for i, token in enumerate(row) if token == tokenizer.end_id], len(row)]:
        texts.append(tokenizer.decode(row[start:end]))
        start = end + 1
    return texts
