"""The splits of a dataset as examples, checked against what the config expects; text is tokenised here, once."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mmprime.data import CodeDataset, load_documents, pack_documents, read_index
from mmprime.data.codes import VENDORS, vendors_of
from mmprime.data.shards import split_shards
from mmprime.data.storage import is_remote, join, read_remote
from mmprime.data.tokens import token_blocks
from mmprime.io import sha256
from mmprime.tokenizers import TextTokenizer

from .code_examples import code_examples
from .config import ConfigError, data_folder, nearest, resolve, tokenizer_path
from .examples import Examples
from .schema import DataConfig, TrainConfig
from .streams import CodeSource, StreamedExamples, StreamPlan, TokenSource, notice


@dataclass(frozen=True)
class Corpus:
    """The splits of one dataset and the sizes a model for it needs.

    radices: of the spans whose data are digits; tokenizers: their fingerprints, by span; notices: what a run says
    about its data before the first step; classes: names of the labels, where labels are used.
    """

    train: Examples | StreamedExamples
    validation: dict[str, Examples]
    num_codes: dict[str, int]  # by span
    lengths: dict[str, int | tuple[int, int]]  # by span: tokens, or the grid (h, w)
    num_classes: int | None
    text_tokenizer: TextTokenizer | None
    fingerprint: str
    tokenizers: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    radices: dict[str, tuple[int, ...]] = field(default_factory=dict)


def load_corpus(config: DataConfig, seed: int, train: TrainConfig | None = None) -> Corpus:
    """Load what ``config`` names, or open its stream, check it against what it expects, tokenise it.

    ``train`` says what a step of a stream is.

    Raises:
        ConfigError: a missing path or split, or geometry, code-book size or classes other than the config says.
    """
    if not config.path:
        raise ConfigError("data.path has no value; name a dataset folder (tools/prepare.py writes them)")
    if config.phrasings and (config.kind == "text" or not config.text_length):
        raise ConfigError(
            "data.phrasings=true words captions, and there are none; set data.text_length, or phrasings=false"
        )
    if config.also and config.kind != "text":
        raise ConfigError(f"data.also={list(config.also)}: only text is joined; set data.kind=text, or also=[]")
    index = read_index(data_folder(config.path), None if config.kind == "text" else config.kind)
    config = replace(config, validation=validation_splits(config, index["splits"]))
    plan = StreamPlan(config, index, train or TrainConfig(), seed)
    return _load_text(plan) if config.kind == "text" else _load_codes(plan)


def _load_text(plan: StreamPlan) -> Corpus:
    config, index = plan.config, plan.index
    if config.text_length < 1:
        raise ConfigError(f"data.text_length={config.text_length}: rows of text need a length, e.g. 128")
    tokenizer = _tokenizer(config)
    if index["kind"] == "tokens":
        _check_rows(config, index, tokenizer)
        if config.also:
            raise ConfigError(
                f"data.also={list(config.also)}: only documents are joined, and {config.path} holds rows of tokens"
            )
    elif config.stream is True:
        raise ConfigError(
            f"data.stream=true: {config.path} holds documents, and rows of tokens are streamed: mmprime prepare tokens "
            f"--data {config.path} --tokenizer {config.text_tokenizer} --length {config.text_length} --out DIR"
        )

    def rows(split: str, also: Sequence[str] = ()) -> Examples:
        folder = data_folder(config.path)
        if index["kind"] == "tokens":
            blocks = [block for entry in split_shards(index, split) for block in token_blocks(folder, index, entry)]
            return Examples({"text": torch.cat(blocks)})
        documents = [text for path in (folder, *map(data_folder, also)) for text in load_documents(path, split)]
        packed = pack_documents(documents, tokenizer.encode, tokenizer.end_id, config.text_length)
        return Examples({"text": torch.as_tensor(packed).int()})

    streamed = index["kind"] == "tokens" and plan.wanted(4 * config.text_length)
    train = StreamedExamples.open(plan, TokenSource(plan)) if streamed else rows(config.train_split, config.also)
    return Corpus(
        train=train,
        validation={name: rows(name).subset(config.validate_examples, plan.seed) for name in config.validation or ()},
        num_codes={"text": tokenizer.vocab_size},
        lengths={"text": config.text_length},
        num_classes=None,
        text_tokenizer=tokenizer,
        fingerprint="+".join(map(dataset_fingerprint, (config.path, *config.also))),
        tokenizers={"text": tokenizer.fingerprint()},
        notices=_streaming(plan, train),
    )


def _check_rows(config: DataConfig, index: dict[str, Any], tokenizer: TextTokenizer) -> None:
    """Raises ConfigError for rows of another length or another tokenizer."""
    if index["length"] != config.text_length:
        raise ConfigError(
            f"data.text_length={config.text_length}, but the rows of {config.path} have {index['length']}"
        )
    if index["tokenizer_fingerprint"] != tokenizer.fingerprint():
        raise ConfigError(
            f"data.text_tokenizer={config.text_tokenizer} ({tokenizer.fingerprint()}) did not make the rows of "
            f"{config.path} ({index['tokenizer_fingerprint']})"
        )


def _streaming(plan: StreamPlan, train: Examples | StreamedExamples) -> list[str]:
    return [notice(plan, train.stream)] if isinstance(train, StreamedExamples) else []


def _load_codes(plan: StreamPlan) -> Corpus:
    config, index = plan.config, plan.index
    grid, radices = (index["grid"][0], index["grid"][1]), tuple(index.get("radices", ()))
    num_codes, classes = int(index["num_codes"]), class_names(config, index)
    num_classes = len(classes) or None
    _check(config, list(grid), num_codes, num_classes)
    _check_image_tokenizer(config, index["tokenizer_fingerprint"])
    tokenizer = _tokenizer(config) if config.text_length else None
    streamed = plan.wanted(8 * math.prod(grid))
    if streamed and config.features:
        raise ConfigError(f"data.features={config.features}: they are for data in memory; set data.stream=false")
    in_memory = [*([] if streamed else [config.train_split]), *(config.validation or ())]
    sets = {name: CodeDataset.load(data_folder(config.path), name) for name in in_memory}
    examples = {name: code_examples(dataset, config, tokenizer, classes) for name, dataset in sets.items()}
    train = None
    if streamed:
        first = f"the first of {config.train_split}"
        source = CodeSource(plan, tokenizer, classes)
        train = StreamedExamples.open(plan, source, lambda head: sets.update({first: head}))
    codes_by_span = {"image": num_codes}
    lengths: dict[str, int | tuple[int, int]] = {"image": grid}
    made_by = {"image": index["tokenizer_fingerprint"]}
    if tokenizer is not None:
        made_by["text"] = tokenizer.fingerprint()
        codes_by_span = {"text": tokenizer.vocab_size, **codes_by_span}
        lengths = {"text": config.text_length, **lengths}
    trained = train or examples.pop(config.train_split)
    captions = [] if tokenizer is None else [*_uncaptioned(sets), *_cut_captions(sets, tokenizer, config.text_length)]
    return Corpus(
        train=trained,
        validation={name: part.subset(config.validate_examples, plan.seed) for name, part in examples.items()},
        num_codes=codes_by_span,
        radices={"image": radices} if trained.codes["image"].ndim == 3 else {},
        lengths=lengths,
        num_classes=num_classes,
        text_tokenizer=tokenizer,
        fingerprint=dataset_fingerprint(config.path),
        tokenizers=made_by,
        notices=[*_streaming(plan, trained), *captions],
        classes=classes,
    )


def class_names(config: DataConfig, index: dict[str, Any]) -> list[str]:
    """Names of the classes a model is conditioned on. Raises ConfigError for vendors that the index does not have."""
    if config.labels != VENDORS:
        return list(index.get("classes", ())) if config.labels else []
    if not (vendors := vendors_of(index, config.train_split)):
        raise ConfigError(f"data.labels=vendors, but the index of {config.path} does not say who drew its images")
    return vendors


def _uncaptioned(sets: dict[str, CodeDataset]) -> list[str]:
    """A line for each split with examples that have no caption: they are left out."""
    bare = {split: sum(not caption.strip() for caption in dataset.captions) for split, dataset in sets.items()}
    return [
        f"{split}: {count:,} of {len(sets[split]):,} examples have no caption and are left out"
        for split, count in bare.items()
        if count
    ]


def _cut_captions(sets: dict[str, CodeDataset], tokenizer: TextTokenizer, length: int) -> list[str]:
    """A line for each split with captions that ``length`` tokens do not hold with their end: they are cut."""
    lines = []
    for split, dataset in sets.items():
        captions = [*dataset.captions, *(text for several in dataset.more_captions for text in several)]
        needed = {text: len(tokenizer.encode(text)) + 1 for text in set(captions)}
        if cut := [text for text in captions if needed[text] > length]:
            longest = max(cut, key=lambda text: needed[text])
            lines.append(
                f"{split}: {len(cut):,} of {len(captions):,} captions are cut to data.text_length={length} tokens; "
                f"the longest needs {needed[longest]} with its end: {longest[:80]!r}"
            )
    return lines


def _tokenizer(config: DataConfig) -> TextTokenizer:
    if not config.text_tokenizer:
        raise ConfigError("data.text_tokenizer has no value; a text span needs one (or set data.text_length=0)")
    return TextTokenizer.load(tokenizer_path(config.text_tokenizer))


def _check(config: DataConfig, grid: list[int], num_codes: int, num_classes: int | None) -> None:
    for key, expected, actual in (
        ("grid", list(config.grid), grid),
        ("num_codes", config.num_codes, num_codes),
        ("num_classes", config.num_classes, num_classes),
    ):
        if expected and actual is not None and expected != actual:
            raise ConfigError(f"data.{key}={expected}, but {config.path} has {actual}; set data.{key} to what it has")


def _check_image_tokenizer(config: DataConfig, fingerprint: str) -> None:
    if not config.image_tokenizer:
        return
    from mmprime.tokenizers import load_image_tokenizer

    named = load_image_tokenizer(tokenizer_path(config.image_tokenizer)).fingerprint()
    if named != fingerprint:
        raise ConfigError(
            f"data.image_tokenizer={config.image_tokenizer} ({named}) did not make the codes of {config.path} "
            f"({fingerprint}); encode the images again or name the right one"
        )


def dataset_fingerprint(path: str) -> str:
    """16 hex digits of the SHA-256 of a dataset's index, which holds the hashes of its shards."""
    if is_remote(path):
        return hashlib.sha256(read_remote(join(path, "index.json"))).hexdigest()[:16]
    folder = resolve(path)
    index = folder / "index.json"
    if not index.is_file():
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        raise ConfigError(f"data.path={path} has no index.json{nearest('index.json', names)}")
    return sha256(index)[:16]


def validation_splits(config: DataConfig, available: Iterable[str]) -> list[str]:
    """The splits ``data.validation`` names; where it is null, every split of the dataset but ``data.train_split``.

    Raises ConfigError, naming the key and what there is, for a split the dataset lacks or one that is trained on.
    """
    splits = sorted(available)
    chosen = config.validation
    named = [("train_split", config.train_split), *(("validation", name) for name in chosen or ())]
    for key, name in named:
        if name not in splits:
            known = f"it has {', '.join(splits) or 'none'}"
            raise ConfigError(f"data.{key}: {config.path} has no split {name!r}; {known}{nearest(name, splits)}")
    if config.train_split in (chosen or ()):
        raise ConfigError(f"data.validation: {config.train_split!r} is data.train_split; nothing would be held out")
    return [name for name in splits if name != config.train_split] if chosen is None else list(chosen)


def without_validation(data: DataConfig, train: TrainConfig) -> None:
    """Switch validation off and say so: there is no split to validate on."""
    if train.validate_every and os.environ.get("RANK", "0") == "0":
        why = f"{data.path} has no other split" if data.validation is None else "data.validation=[]"
        print(f"no validation: {why}; no checkpoint will be marked as the best", flush=True)
    train.validate_every = 0
