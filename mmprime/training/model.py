"""Canvas and denoiser of a run, from the section ``model`` of its config.

Each span has a codec, as ``model.codec.<span>`` says; clustered ones come from data or a file.

What was clustered once is kept in the run's folder and read back: a codec must not change between two starts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from mmprime.codecs import load_codec, save_codec
from mmprime.engine import Canvas, Codec, Span
from mmprime.models import DiTConfig, Network, PrimeDiT, Retrofit, choose_trained, transplant

from .codec_sources import neighbour_vectors
from .config import ConfigError, nearest, resolve, tokenizer_path
from .corpus import Corpus
from .pretrained import Pretrained
from .schema import CodecConfig, ModelConfig


def build_canvas(
    corpus: Corpus,
    codecs: dict[str, CodecConfig],
    image_tokenizer: str = "",
    cache: Path | None = None,
    start: Pretrained | None = None,
) -> Canvas:
    """Spans of ``corpus`` in their order, each with the codec of its section, or that of ``start`` (or the default).

    ``image_tokenizer`` is needed where a codec is clustered from a code book. ``cache``: see the module's head.

    Raises:
        ConfigError: a section for a span the data does not have, or a codec that does not fit the code-book size.
    """
    for name in codecs:
        if name not in corpus.lengths:
            raise ConfigError(f"model.codec.{name}: the data has no such span{nearest(name, corpus.lengths)}")
    spans = []
    for name, length in corpus.lengths.items():
        if name not in codecs and start is not None:
            spans.append(Span(name, length, start.codec(name)))
            continue
        config = codecs.get(name, CodecConfig(kind="product" if name in corpus.radices else "clustered"))
        try:
            codec = _cached(name, config, corpus, image_tokenizer, cache)
        except ValueError as error:
            raise ConfigError(f"model.codec.{name}: {error}") from error
        spans.append(Span(name, length, codec))
    return Canvas(spans)


def _cached(name: str, config: CodecConfig, corpus: Corpus, tokenizer: str, cache: Path | None) -> Codec:
    if cache is None or config.kind != "clustered":
        return _build(name, config, corpus, tokenizer)
    recipe = [asdict(config), corpus.fingerprint, corpus.tokenizers, corpus.lengths, len(corpus.train)]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    path = cache / "codecs" / f"{name}-{key}.safetensors"
    if not path.is_file():
        save_codec(path, _build(name, config, corpus, tokenizer), {"kind": config.kind, "source": config.source})
    return load_codec(path)[0]


def codec_origin(config: CodecConfig, codec: Codec) -> dict[str, Any]:
    """For a model's config.json: the fingerprint of a span's codec, and how it was made."""
    kept = load_codec(resolve(config.path))[1] if config.kind == "stored" else {"kind": config.kind}
    if config.kind == "clustered":
        kept |= {"source": config.source, "seed": config.seed}
    return {"fingerprint": codec.fingerprint(), **kept}


def plain_codec(num_codes: int, config: CodecConfig) -> Codec:
    """A codec that needs no data. Raises ValueError for ``stored`` and for ``clustered`` with more than one digit."""
    if config.kind == "mixed_radix":
        return Codec.mixed_radix(config.radices, num_codes)
    if config.kind == "base" or (config.digits == 1 and config.kind != "stored"):
        return Codec.base(num_codes, config.digits)
    if config.kind == "shuffled":
        return Codec.shuffled(num_codes, config.digits, config.seed)
    raise ValueError(f"kind={config.kind} needs data or a file; use base, shuffled or mixed_radix")


def _build(name: str, config: CodecConfig, corpus: Corpus, tokenizer: str) -> Codec:
    if (config.kind == "product") != (name in corpus.radices):
        made = f"digits of radices {corpus.radices[name]}" if name in corpus.radices else "codes, not digits"
        raise ValueError(
            f"kind={config.kind}, but the data are {made}; kind=product is for data of digits, and only it"
        )
    if config.kind == "product":
        return Codec.product(corpus.radices[name])
    num_codes = corpus.num_codes[name]
    if config.kind == "stored":
        return _stored(config.path, num_codes)
    if config.kind != "clustered" or config.digits == 1:
        return plain_codec(num_codes, config)
    vectors = _vectors(name, config, corpus, tokenizer)
    return Codec.clustered(vectors, config.digits, config.radices or None, config.seed)


def _stored(path: str, num_codes: int) -> Codec:
    if not path:
        raise ValueError("kind=stored needs a path: a file of tools/prepare.py codec")
    codec = load_codec(resolve(path))[0]
    if codec.num_codes != num_codes:
        raise ValueError(f"{path} is a codec of {codec.num_codes} codes, the data has {num_codes}")
    return codec


def _vectors(name: str, config: CodecConfig, corpus: Corpus, tokenizer: str) -> Tensor:
    """One vector a code, (C, d)."""
    num_codes = corpus.num_codes[name]
    if config.source == "ppmi":
        return neighbour_vectors(corpus, name, config.dim, config.seed)
    if name != "image" or not tokenizer:
        raise ValueError("source=codebook needs an image span and data.image_tokenizer; or use source=ppmi")
    from mmprime.tokenizers import load_image_tokenizer

    vectors = load_image_tokenizer(tokenizer_path(tokenizer)).codebook_vectors().detach().float()
    if len(vectors) != num_codes:
        raise ValueError(f"the image tokenizer has {len(vectors)} codes, the data {num_codes}")
    return vectors


def build_model(
    canvas: Canvas, config: ModelConfig, num_classes: int | None = None, start: Pretrained | None = None
) -> Network:
    """A PrimeDiT with random weights from torch's global generator, or those of ``start``; what of them is not
    trained by ``config.train`` needs no gradient.

    Empty values of ``config`` are the preset's.

    Raises:
        ConfigError: a preset or sizes that the model refuses, or other sizes than those of ``start``.
    """
    known = {entry.name for entry in fields(DiTConfig)}
    given = {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name in known}
    values: dict[str, Any] = {name: value for name, value in given.items() if isinstance(value, bool) or value}
    try:
        if start is not None and isinstance(start.model, Retrofit):
            return _retrofit(canvas, config, start.model, start.name)
        model = PrimeDiT(canvas, DiTConfig(**values, num_classes=num_classes))
        if start is not None:
            assert isinstance(start.model, PrimeDiT)
            transplant(model, start.model)
            choose_trained(model, config.train, config.lora_rank, config.lora_alpha)
        return model
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def _retrofit(canvas: Canvas, config: ModelConfig, start: Retrofit, name: str) -> Network:
    """The network of another library on the canvas. Raises ValueError on options of a network of ours."""
    default, free = ModelConfig(), {"init", "train", "lora_rank", "lora_alpha", "codec", "preset"}
    if given := [
        f.name for f in fields(default) if f.name not in free and getattr(config, f.name) != getattr(default, f.name)
    ]:
        raise ValueError(
            f"{given[0]}={getattr(config, given[0])} says nothing about the network of {name}; leave it out"
        )
    model = start.on_canvas(canvas)
    choose_trained(model, config.train, config.lora_rank, config.lora_alpha)
    return model
