"""Training examples in memory: for each span a table of codes, perhaps class labels and captions.

Text is tokenised once, here; a batch is then one gather per span, with no Python loop over examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmprime.data import CodeDataset
from mmprime.files import sha256
from mmprime.tokenizers import TextTokenizer
from mmprime.training.config import ConfigError, nearest, resolve
from mmprime.training.rng import generator_for
from mmprime.training.schema import DataConfig


@dataclass(frozen=True)
class Examples:
    """n examples: ``codes[name]`` (n, L) int32; ``labels`` (n,) int64 or None; ``captions`` empty or n strings."""

    codes: dict[str, Tensor]
    labels: Tensor | None = None
    captions: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))

    def subset(self, count: int, seed: int) -> Examples:
        """At most ``count`` examples, drawn once by ``seed``."""
        chosen = torch.randperm(len(self), generator=generator_for("cpu", seed, "subset"))[:count]
        labels = None if self.labels is None else self.labels[chosen]
        captions = [self.captions[i] for i in chosen.tolist()] if self.captions else []
        return Examples({name: x[chosen] for name, x in self.codes.items()}, labels, captions)


@dataclass(frozen=True)
class Corpus:
    """The splits of one dataset and the sizes a model for it needs. tokenizers: their fingerprints, by span."""

    train: Examples
    validation: dict[str, Examples]
    num_codes: dict[str, int]  # by span
    lengths: dict[str, int | tuple[int, int]]  # by span: tokens, or the grid (h, w)
    num_classes: int | None
    text_tokenizer: TextTokenizer | None
    fingerprint: str
    tokenizers: dict[str, str] = field(default_factory=dict)


def load_corpus(config: DataConfig, seed: int) -> Corpus:
    """Load what ``config`` names, check it against what it expects, tokenise it.

    Raises:
        ConfigError: a missing path or split, or geometry, code-book size or classes other than the config says.
    """
    if not config.path:
        raise ConfigError("data.path has no value; name a dataset folder (tools/prepare.py writes them)")
    return _load_text(config, seed) if config.kind == "text" else _load_codes(config, seed)


def _load_text(config: DataConfig, seed: int) -> Corpus:
    from mmprime.data import load_documents, pack_documents

    if config.text_length < 1:
        raise ConfigError(f"data.text_length={config.text_length}: rows of text need a length, e.g. 128")
    tokenizer = _tokenizer(config)

    def rows(split: str) -> Examples:
        documents = load_documents(resolve(config.path), split)
        packed = pack_documents(documents, tokenizer.encode, tokenizer.end_id, config.text_length)
        return Examples({"text": torch.as_tensor(packed).int()})

    validation = {name: rows(name).subset(config.validate_examples, seed) for name in config.validation}
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
    sets |= {name: CodeDataset.load(resolve(config.path), name) for name in config.validation}
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
        lengths=lengths,
        num_classes=num_classes,
        text_tokenizer=tokenizer,
        fingerprint=dataset_fingerprint(config.path),
        tokenizers=made_by,
    )


def _examples(
    dataset: CodeDataset, config: DataConfig, tokenizer: TextTokenizer | None, num_classes: int | None
) -> Examples:
    codes = {"image": dataset.codes}
    if tokenizer is not None:
        known = {
            text: tokenizer.encode_padded(text, config.text_length, truncate=True) for text in set(dataset.captions)
        }
        codes = {"text": torch.tensor([known[text] for text in dataset.captions], dtype=torch.int32), **codes}
    labels = None
    if config.labels:
        if dataset.labels is None or num_classes is None:
            raise ConfigError(f"data.labels=true, but {config.path} has no class labels")
        labels = torch.where(dataset.labels < 0, num_classes, dataset.labels)  # unlabelled: the null class
    return Examples(codes, labels, list(dataset.captions))


def _tokenizer(config: DataConfig) -> TextTokenizer:
    if not config.text_tokenizer:
        raise ConfigError("data.text_tokenizer has no value; a text span needs one (or set data.text_length=0)")
    return TextTokenizer.load(resolve(config.text_tokenizer))


def _check(config: DataConfig, grid: list[int], num_codes: int, num_classes: int | None) -> None:
    for key, expected, found in (
        ("grid", list(config.grid), grid),
        ("num_codes", config.num_codes, num_codes),
        ("num_classes", config.num_classes, num_classes),
    ):
        if expected and found is not None and expected != found:
            raise ConfigError(f"data.{key}={expected}, but {config.path} has {found}; set data.{key} to what it has")


def _check_image_tokenizer(config: DataConfig, fingerprint: str) -> None:
    if not config.image_tokenizer:
        return
    from mmprime.tokenizers import ImageTokenizer

    own = ImageTokenizer.load(resolve(config.image_tokenizer)).fingerprint()
    if own != fingerprint:
        raise ConfigError(
            f"data.image_tokenizer={config.image_tokenizer} ({own}) did not make the codes of {config.path} "
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
