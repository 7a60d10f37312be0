"""The splits of a dataset as examples, checked against what the config expects; text is tokenised here, once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch

from mmprime.data import CodeDataset, load_documents, pack_documents, read_index
from mmprime.io import sha256
from mmprime.tokenizers import TextTokenizer

from .config import ConfigError, nearest, resolve
from .examples import Alternatives, Examples
from .schema import DataConfig, TrainConfig


@dataclass(frozen=True)
class Corpus:
    """The splits of one dataset and the sizes a model for it needs.

    radices: of the spans whose data are digits; tokenizers: their fingerprints, by span; notices: what a run says
    about its data before the first step; classes: names of the labels, where labels are used.
    """

    train: Examples
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


def load_corpus(config: DataConfig, seed: int) -> Corpus:
    """Load what ``config`` names, check it against what it expects, tokenise it.

    Raises:
        ConfigError: a missing path or split, or geometry, code-book size or classes other than the config says.
    """
    if not config.path:
        raise ConfigError("data.path has no value; name a dataset folder (tools/prepare.py writes them)")
    config = replace(config, validation=validation_splits(config, read_index(resolve(config.path))["splits"]))
    return _load_text(config, seed) if config.kind == "text" else _load_codes(config, seed)


def _load_text(config: DataConfig, seed: int) -> Corpus:
    if config.text_length < 1:
        raise ConfigError(f"data.text_length={config.text_length}: rows of text need a length, e.g. 128")
    tokenizer = _tokenizer(config)

    def rows(split: str) -> Examples:
        documents = load_documents(resolve(config.path), split)
        packed = pack_documents(documents, tokenizer.encode, tokenizer.end_id, config.text_length)
        return Examples({"text": torch.as_tensor(packed).int()})

    validation = {name: rows(name).subset(config.validate_examples, seed) for name in config.validation or ()}
    return Corpus(
        train=rows(config.train_split),
        validation=validation,
        num_codes={"text": tokenizer.vocab_size},
        lengths={"text": config.text_length},
        num_classes=None,
        text_tokenizer=tokenizer,
        fingerprint=dataset_fingerprint(config.path),
        tokenizers={"text": tokenizer.fingerprint()},
    )


def _load_codes(config: DataConfig, seed: int) -> Corpus:
    first = CodeDataset.load(resolve(config.path), config.train_split)
    num_classes = len(first.classes) or None if config.labels else None
    _check(config, list(first.grid), first.num_codes, num_classes)
    _check_image_tokenizer(config, first.tokenizer_fingerprint)
    tokenizer = _tokenizer(config) if config.text_length else None
    sets = {config.train_split: first}
    sets |= {name: CodeDataset.load(resolve(config.path), name) for name in config.validation or ()}
    examples = {name: _examples(dataset, config, tokenizer, num_classes) for name, dataset in sets.items()}
    num_codes = {"image": first.num_codes}
    lengths: dict[str, int | tuple[int, int]] = {"image": first.grid}
    made_by = {"image": first.tokenizer_fingerprint}
    if tokenizer is not None:
        made_by["text"] = tokenizer.fingerprint()
        num_codes, lengths = {"text": tokenizer.vocab_size, **num_codes}, {"text": config.text_length, **lengths}
    return Corpus(
        train=examples.pop(config.train_split),
        validation={name: part.subset(config.validate_examples, seed) for name, part in examples.items()},
        num_codes=num_codes,
        radices={"image": first.radices} if first.tokens.ndim == 3 else {},
        lengths=lengths,
        num_classes=num_classes,
        text_tokenizer=tokenizer,
        fingerprint=dataset_fingerprint(config.path),
        tokenizers=made_by,
        notices=[] if tokenizer is None else [*_uncaptioned(sets), *_cut_captions(sets, tokenizer, config.text_length)],
        classes=first.classes if config.labels else [],
    )


def _examples(
    dataset: CodeDataset, config: DataConfig, tokenizer: TextTokenizer | None, num_classes: int | None
) -> Examples:
    codes, captions, labels = {"image": dataset.tokens}, dataset.captions, dataset.labels
    text_tokens = alternatives = None
    if tokenizer is not None:
        pick = _captioned(dataset, config)
        more = [dataset.more_captions[i] for i in pick] if dataset.more_captions else []
        captions = [captions[i] for i in pick]
        labels = None if labels is None else labels[pick]
        texts = [[caption, *rest] for caption, rest in zip(captions, more or [[]] * len(pick))]
        known = {
            text: tokenizer.encode_padded(text, config.text_length, truncate=True)
            for text in {t for x in texts for t in x}
        }
        codes = {
            "text": torch.tensor([known[text] for text in captions], dtype=torch.int32),
            "image": dataset.tokens[pick],
        }
        text_tokens = tokenizer.count_tokens(codes["text"])
        alternatives = _alternatives(texts, known, tokenizer) if more else None
    if config.labels:
        if labels is None or num_classes is None:
            raise ConfigError(f"data.labels=true, but {config.path} has no class labels")
        labels = torch.where(labels < 0, num_classes, labels)  # unlabelled: the null class
    return Examples(codes, labels if config.labels else None, list(captions), text_tokens, alternatives)


def _captioned(dataset: CodeDataset, config: DataConfig) -> list[int]:
    """The examples with a caption. Raises ConfigError when all have none."""
    pick = [i for i, caption in enumerate(dataset.captions) if caption.strip()]
    if not pick:
        raise ConfigError(
            f"split {dataset.splits[0]!r} of {config.path} has no captions; train without text: data.text_length=0"
        )
    return pick


def _uncaptioned(sets: dict[str, CodeDataset]) -> list[str]:
    """A line for each split with examples that have no caption: they are left out."""
    bare = {split: sum(not caption.strip() for caption in dataset.captions) for split, dataset in sets.items()}
    return [
        f"{split}: {count:,} of {len(sets[split]):,} examples have no caption and are left out"
        for split, count in bare.items()
        if count
    ]


def _alternatives(texts: list[list[str]], known: dict[str, list[int]], tokenizer: TextTokenizer) -> Alternatives:
    captions = [text for several in texts for text in several]
    count = torch.tensor([len(several) for several in texts])
    rows = torch.tensor([known[text] for text in captions], dtype=torch.int32)
    return Alternatives(rows, tokenizer.count_tokens(rows), captions, count.cumsum(0) - count, count)


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
    return TextTokenizer.load(resolve(config.text_tokenizer))


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

    named = load_image_tokenizer(resolve(config.image_tokenizer)).fingerprint()
    if named != fingerprint:
        raise ConfigError(
            f"data.image_tokenizer={config.image_tokenizer} ({named}) did not make the codes of {config.path} "
            f"({fingerprint}); encode the images again or name the right one"
        )


def dataset_fingerprint(path: str) -> str:
    """16 hex digits of the SHA-256 of a dataset's index, which holds the hashes of its shards."""
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
