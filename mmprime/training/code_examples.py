"""Examples of a dataset of codes: codes and, where a run wants them, labels and tokenised captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmprime.data import CodeDataset
from mmprime.data.codes import VENDORS, vendor_labels
from mmprime.data.phrasings import phrasings
from mmprime.tokenizers import TextTokenizer

from .alignment import read_features
from .config import ConfigError
from .examples import Alternatives, Examples
from .schema import DataConfig


def code_examples(
    dataset: CodeDataset, config: DataConfig, tokenizer: TextTokenizer | None, classes: Sequence[str] = ()
) -> Examples:
    """The examples a run with ``config`` learns from: of text those with a caption, tokenised; classes: of the labels.

    Raises ConfigError where captions, labels or features are asked for and there are none.
    """
    if config.labels == VENDORS:
        dataset = replace(dataset, labels=vendor_labels(dataset.vendors, classes))
    codes, captions, labels, keys = {"image": dataset.tokens}, dataset.captions, dataset.labels, dataset.keys
    text_tokens = alternatives = None
    if tokenizer is not None:
        pick = _captioned(dataset, config)
        more = [dataset.more_captions[i] for i in pick] if dataset.more_captions else []
        captions, keys = [captions[i] for i in pick], [keys[i] for i in pick]
        labels = None if labels is None else labels[pick]
        texts = [[caption, *rest] for caption, rest in zip(captions, more or [[]] * len(pick))]
        if config.phrasings:
            texts = _phrased(texts, [dataset.tags[i] for i in pick], tokenizer, config.text_length)
        known = {
            text: tokenizer.encode_padded(text, config.text_length, truncate=True)
            for text in {t for x in texts for t in x}
        }
        codes = {
            "text": torch.tensor([known[text] for text in captions], dtype=torch.int32),
            "image": dataset.tokens[pick],
        }
        text_tokens = tokenizer.count_tokens(codes["text"])
        alternatives = _alternatives(texts, known, tokenizer) if more or config.phrasings else None
    if config.labels:
        if labels is None or not classes:
            raise ConfigError(f"data.labels=true, but {config.path} has no class labels")
        labels = torch.where(labels < 0, len(classes), labels)  # unlabelled: the null class
    train = config.features and dataset.splits[:1] == [config.train_split]
    features = read_features(config.features, keys) if train else None
    return Examples(codes, labels if config.labels else None, list(captions), text_tokens, alternatives, features)


def _captioned(dataset: CodeDataset, config: DataConfig) -> list[int]:
    """The examples with a caption. Raises ConfigError when all have none."""
    pick = [i for i, caption in enumerate(dataset.captions) if caption.strip()]
    if not pick:
        raise ConfigError(
            f"split {dataset.splits[0]!r} of {config.path} has no captions; write them beside the pictures (NAME.txt) "
            "and prepare again, or train without text: data.text_length=0"
        )
    return pick


def _phrased(texts: list[list[str]], tags: list[list[str]], tokenizer: TextTokenizer, length: int) -> list[list[str]]:
    """The captions of each example, each before every phrasing that `length` tokens hold: half of what is drawn."""
    known: dict[tuple[str, ...], list[str]] = {}
    for captions, words in zip(texts, tags):
        for caption in captions:
            if (key := (caption, *words)) not in known:
                fit = [text for text in phrasings(caption, words) if len(tokenizer.encode(text)) < length]
                known[key] = [text for other in fit for text in (caption, other)] or [caption]
    every = [[(caption, *words) for caption in captions] for captions, words in zip(texts, tags)]
    return [[text for key in keys for text in known[key]] for keys in every]


def _alternatives(texts: list[list[str]], known: dict[str, list[int]], tokenizer: TextTokenizer) -> Alternatives:
    captions = [text for several in texts for text in several]
    count = torch.tensor([len(several) for several in texts])
    rows = torch.tensor([known[text] for text in captions], dtype=torch.int32)
    return Alternatives(rows, tokenizer.count_tokens(rows), captions, count.cumsum(0) - count, count)
