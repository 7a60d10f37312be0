"""The canvas of a run: one codec a span, as ``model.codec.<span>`` says; clustered codecs come from data.

What was clustered once is kept in the run's folder and read back: a codec must not change between two starts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmprime.engine import Canvas, Codec, Span
from mmprime.engine.cooccurrence import ppmi_vectors
from mmprime.training.config import ConfigError, nearest, resolve
from mmprime.training.schema import CodecConfig

if TYPE_CHECKING:
    from mmprime.training.examples import Corpus

MAX_ROWS = 50_000  # examples that neighbour statistics are taken from


def build_canvas(
    corpus: Corpus, codecs: dict[str, CodecConfig], image_tokenizer: str = "", cache: Path | None = None
) -> Canvas:
    """Spans of ``corpus`` in their order, each with the codec of its section (or the default codec).

    ``image_tokenizer`` is needed where a codec is clustered from a code book. ``cache``: see the module's head.

    Raises:
        ConfigError: a section for a span the data does not have, or a codec that does not fit the code-book size.
    """
    for name in codecs:
        if name not in corpus.lengths:
            raise ConfigError(f"model.codec.{name}: the data has no such span{nearest(name, corpus.lengths)}")
    spans = []
    for name, length in corpus.lengths.items():
        config = codecs.get(name, CodecConfig())
        try:
            codec = _cached(name, config, corpus, image_tokenizer, cache)
        except ValueError as error:
            raise ConfigError(f"model.codec.{name}: {error}") from error
        spans.append(Span(name, length, codec))
    return Canvas(spans)


def _cached(name: str, config: CodecConfig, corpus: Corpus, tokenizer: str, cache: Path | None) -> Codec:
    if cache is None or config.kind != "clustered":
        return _build(name, config, corpus, tokenizer)
    key = hashlib.sha256(json.dumps([asdict(config), corpus.fingerprint, tokenizer]).encode()).hexdigest()[:16]
    path = cache / "codecs" / f"{name}-{key}.safetensors"
    if path.is_file():
        stored = load_file(path)
        return Codec.from_table(stored["digits"], stored["radices"].tolist())
    codec = _build(name, config, corpus, tokenizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({"digits": codec.digits.contiguous(), "radices": torch.tensor(codec.radices)}, temporary)
    temporary.rename(path)
    return codec


def plain_codec(num_codes: int, config: CodecConfig) -> Codec:
    """A codec that needs no data. Raises ValueError for ``clustered`` with more than one digit."""
    if config.kind == "mixed_radix":
        return Codec.mixed_radix(config.radices, num_codes)
    if config.digits == 1 or config.kind == "base":
        return Codec.base(num_codes, config.digits)
    if config.kind == "shuffled":
        return Codec.shuffled(num_codes, config.digits, config.seed)
    raise ValueError(f"kind={config.kind} needs data to cluster; use base, shuffled or mixed_radix")


def _build(name: str, config: CodecConfig, corpus: Corpus, tokenizer: str) -> Codec:
    num_codes = corpus.num_codes[name]
    if config.kind != "clustered" or config.digits == 1:
        return plain_codec(num_codes, config)
    vectors = _vectors(name, config, corpus, tokenizer)
    return Codec.clustered(vectors, config.digits, config.radices or None, config.seed)


def _vectors(name: str, config: CodecConfig, corpus: Corpus, tokenizer: str) -> Tensor:
    """One vector a code, (C, d)."""
    num_codes, length = corpus.num_codes[name], corpus.lengths[name]
    if config.source == "ppmi":
        rows = corpus.train.codes[name][:MAX_ROWS].long()
        rows = rows if isinstance(length, int) else rows.unflatten(1, length)
        return ppmi_vectors(rows, num_codes, config.dim, seed=config.seed)
    if name != "image" or not tokenizer:
        raise ValueError("source=codebook needs an image span and data.image_tokenizer; or use source=ppmi")
    from mmprime.tokenizers import ImageTokenizer

    vectors = ImageTokenizer.load(resolve(tokenizer)).codebook_vectors().detach().float()
    if len(vectors) != num_codes:
        raise ValueError(f"the image tokenizer has {len(vectors)} codes, the data {num_codes}")
    return vectors
