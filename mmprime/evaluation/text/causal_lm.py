"""A causal language model as the scorer of texts.

    nats_i = -Σ_j ln q(w_ij | start, w_i1 … w_i,j-1)      generative perplexity = exp(Σ_i nats_i / Σ_i tokens_i)
    bits per byte = Σ_i nats_i / (ln 2 · Σ_i bytes_i)     s.e. of both: the ratio estimator of `likelihood.ratio`

q is the scorer, w_ij are its own tokens of text i, so perplexities of scorers with other tokenizers differ; bits per
byte do not depend on the tokenizer. start is the scorer's document separator, which every text is taken to follow, so
the first token is scored too. A text longer than the scorer's window is read through windows that overlap by half:
every token but those of the first window is scored given at least half a window.

A low generative perplexity alone means little: a text that repeats itself has the lowest. It belongs beside
`mmprime.evaluation.text.diversity`.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmprime.io import bar
from mmprime.models.smollm2 import EXTRA, SMOLLM2, converted, smollm2_file

from ..likelihood import ratio
from ..provenance import hash_files

_START = "<|endoftext|>"
_TOKENS_AT_ONCE = 1024
_MAX_WINDOW = 1024


@dataclass(frozen=True)
class TextScores:
    """Of each text: nats (n,) float64, the scorer's tokens (n,), UTF-8 bytes (n,)."""

    nats: Tensor
    tokens: Tensor
    bytes: Tensor

    @property
    def nats_per_token(self) -> tuple[float, float | None]:
        """With its standard error."""
        return ratio(self.nats, self.tokens)

    @property
    def perplexity(self) -> tuple[float, float | None]:
        """exp of nats per token; its standard error to first order."""
        value, error = self.nats_per_token
        return math.exp(value), None if error is None else math.exp(value) * error

    @property
    def bits_per_byte(self) -> tuple[float, float | None]:
        """With its standard error."""
        return ratio(self.nats / math.log(2), self.bytes)


class LanguageModelScorer:
    """A causal language model with its tokenizer, in eval mode and float32.

    name: what it is called in a report. fingerprint: 16 hex digits of its weights and tokenizer. Raises ValueError for
    a tokenizer of more ids than the model has, or without a token to start from.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, fingerprint: str) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.name, self.fingerprint = name, fingerprint
        known = int(model.get_input_embeddings().weight.shape[0])
        if len(tokenizer) > known:
            raise ValueError(f"the tokenizer of {name} has {len(tokenizer)} ids, its model {known}: they do not match")
        self.start_id = _start_id(tokenizer, name)
        longest = getattr(model.config, "max_position_embeddings", None) or _MAX_WINDOW
        self.window = min(int(longest) - 1, _MAX_WINDOW)

    @classmethod
    def load(cls, directory: str | Path | None = None) -> LanguageModelScorer:
        """From a folder in transformers format; None is SmolLM2 from its package.

        Raises ValueError when a package is absent (naming the extra), or the folder holds no model in safetensors.
        """
        require_transformers()
        if directory is None:
            file = smollm2_file()
            return cls._read(converted(file), SMOLLM2, hash_files(file))
        folder = Path(directory)
        weights = sorted(folder.glob("*.safetensors"))
        if not (folder / "config.json").is_file() or not weights:
            raise ValueError(
                f"{folder} is no language model in transformers format: config.json, *.safetensors and a tokenizer are "
                "needed (weights in other formats are not loaded)"
            )
        words = [folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")]
        return cls._read(folder, folder.name, hash_files(*weights, *[file for file in words if file.is_file()]))

    @classmethod
    def _read(cls, folder: Path, name: str, fingerprint: str) -> LanguageModelScorer:
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} cannot be read as a language model: {error}") from error
        return cls(model, tokenizer, name, fingerprint)

    def encode(self, text: str) -> list[int]:
        """The scorer's tokens of a text, without the start."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @torch.no_grad()
    def score(self, texts: Sequence[str], progress: bool = False) -> TextScores:
        """Every text on its own. An empty text has no token and counts for nothing.

        Raises ValueError when all texts together hold no token.
        """
        ids = [self.encode(text) for text in texts]
        if not any(ids):
            raise ValueError(f"{len(texts)} texts without a single token: nothing to score")
        jobs = [(row, *window) for row, tokens in enumerate(ids) for window in windows(len(tokens), self.window)]
        jobs.sort(key=lambda job: job[3] - job[1])
        nats = torch.zeros(len(texts), dtype=torch.float64)
        for group in bar(list(_grouped(jobs)), "scoring", "batch", progress):
            row_nats = self._nats([ids[row][first:last] for row, first, _, last in group])
            for (row, first, scored, _), token_nats in zip(group, row_nats):
                nats[row] += token_nats[scored - first :].sum()
        sizes = torch.tensor([[len(tokens), len(text.encode())] for tokens, text in zip(ids, texts)])
        return TextScores(nats, sizes[:, 0], sizes[:, 1])

    def _nats(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """-ln q of each token of each row given the start and those before it, float64."""
        longest = max(map(len, rows))
        padded = [[self.start_id, *row, *[self.start_id] * (longest - len(row))] for row in rows]
        inputs = torch.tensor(padded)
        mask = torch.tensor([[1] * (1 + len(row)) + [0] * (longest - len(row)) for row in rows])
        logits = self.model(input_ids=inputs[:, :-1], attention_mask=mask[:, :-1], use_cache=False).logits
        nats = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), inputs[:, 1:].flatten(), reduction="none"
        )
        return [token_nats[: len(row)].double() for token_nats, row in zip(nats.view(len(rows), longest), rows)]


def windows(length: int, window: int) -> Iterator[tuple[int, int, int]]:
    """(first, scored, last) of the windows that together score tokens [0, length) once: each reads [first, last) and
    scores [scored, last).

    >>> list(windows(9, 4))
    [(0, 0, 4), (2, 4, 6), (4, 6, 8), (5, 8, 9)]
    """
    done = 0
    while done < length:
        last = min(length, window if done == 0 else done + max(1, window // 2))
        yield max(0, last - window), done, last
        done = last


def _grouped(jobs: Sequence[tuple[int, int, int, int]]) -> Iterator[list[tuple[int, int, int, int]]]:
    """Jobs sorted by length in batches of about the same number of tokens."""
    batch: list[tuple[int, int, int, int]] = []
    for job in jobs:
        if batch and (len(batch) + 1) * (job[3] - job[1]) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _start_id(tokenizer: Any, name: str) -> int:
    """The id every text follows: <|endoftext|> where the scorer knows it, else its bos, else its eos."""
    known = tokenizer.get_vocab()
    for word in (_START, tokenizer.bos_token, tokenizer.eos_token):
        if word is not None and word in known:
            return int(known[word])
    raise ValueError(f"{name} has neither {_START} nor a bos nor an eos token: a text has nothing to follow")


def require_transformers(*more: str) -> None:
    """Raises ValueError naming the extra when transformers or one of `more` is absent."""
    absent = [name for name in ("transformers", *more) if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(f"scoring text needs {', '.join(absent)}; it comes with the extra: {EXTRA}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is first imported: nothing is fetched
