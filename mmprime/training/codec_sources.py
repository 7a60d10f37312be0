"""Codecs made beforehand: vectors whose nearness says which codes are alike, then balanced clustering.

    ppmi        which codes are neighbours in the data         decoder     the patch the image tokenizer draws of a code
    codebook    the vectors of the image tokenizer             head        the rows of a trained model's output head
    confusion   what a trained model takes for what            embeddings  the input embeddings of a language model

A source reads its files and returns what it read by hash and a function that computes vectors (C, d); only that
function and the clustering are timed, since a run reads its data anyway.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmprime.codecs.cooccurrence import count_vectors, ppmi_vectors
from mmprime.data import read_index
from mmprime.data.shards import digest
from mmprime.engine import MASK_ID, Canvas, Codec, Span, generator_of
from mmprime.models import Network, PrimeDiT, load_model
from mmprime.tokenizers import ImageTokenizer, TextTokenizer, load_image_tokenizer

from .config import data_folder, resolve
from .corpus import Corpus, load_corpus
from .examples import Examples
from .schema import DataConfig

MAX_ROWS = 50_000  # examples that neighbour statistics are taken from
TEXT_LENGTH = 128  # tokens of a row where nothing else says it
AROUND = 2  # equal codes on each side of a drawn patch
CHUNK = 64  # examples or codes at a time


@dataclass(frozen=True)
class Recipe:
    """What a codec is made of: folders, and numbers. radices empty: as `Codec.clustered` chooses for `digits`."""

    source: str
    data: str = ""
    model: str = ""
    tokenizer: str = ""
    span: str = ""
    text_length: int = 0
    digits: int = 2
    radices: tuple[int, ...] = ()
    dim: int = 64
    rows: int = 4096  # confusion: examples the model is asked about
    seed: int = 0

    def needs(self, name: str) -> str:
        """The value of a folder. Raises ValueError if it is not given."""
        value = str(getattr(self, name))
        if not value:
            raise ValueError(f"--source {self.source} needs --{name} DIR")
        return value


Source = tuple[dict[str, Any], Callable[[], Tensor]]


def make_codec(recipe: Recipe) -> tuple[Codec, dict[str, Any]]:
    """The codec of a recipe, and how it was made: source, seed, hashes of what was read, seconds.

    Raises ValueError on an unknown source and on folders that are not what the source needs.
    """
    if recipe.source not in SOURCES:
        raise ValueError(f"unknown source {recipe.source!r}; there are {', '.join(SOURCES)}")
    read, vectors = SOURCES[recipe.source](recipe)
    wall, cpu = time.perf_counter(), time.process_time()
    codec = Codec.clustered(vectors(), len(recipe.radices) or recipe.digits, recipe.radices or None, recipe.seed)
    seconds = {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    return codec, {"kind": "clustered", "source": recipe.source, "seed": recipe.seed, **read, **seconds}


# ---------------------------------------------------------------------------------------------------- vectors


def neighbour_vectors(corpus: Corpus, span: str, dim: int, seed: int) -> Tensor:
    """PPMI-SVD over the neighbours of each code of a span in the training examples, (C, d)."""
    length = corpus.lengths[span]
    rows = corpus.train.codes[span][:MAX_ROWS].long()
    rows = rows if isinstance(length, int) else rows.unflatten(1, length)
    return ppmi_vectors(rows, corpus.num_codes[span], dim, seed=seed)


def drawn_patches(tokenizer: ImageTokenizer) -> Tensor:
    """The pixels (C, 3·p²) of one code's patch amid equal codes: distance is what exchanging two codes does."""
    side, patch = 2 * AROUND + 1, tokenizer.downsample
    inside = slice(AROUND * patch, (AROUND + 1) * patch)
    codes = torch.arange(tokenizer.num_codes)[:, None, None].expand(-1, side, side)
    return torch.cat([tokenizer.decode(part)[..., inside, inside].flatten(1) for part in codes.split(CHUNK)])


@torch.no_grad()
def confusion(model: Network, canvas: Canvas, span: Span, examples: Examples, seed: int) -> Tensor:
    """mass[x, c] = Σ p(c | visible) over masked tokens that are truly x, (C, C).

    Of each example a random share of the *tokens* is masked, whole, so that the digits a model has now do not bias it.
    """
    generator = generator_of(seed)
    mass = torch.zeros(span.codec.num_codes, span.codec.num_codes)
    y0 = canvas.pack({name: codes.long() for name, codes in examples.codes.items()})
    tokens = canvas.token_slice(span.name)
    for y in y0.split(CHUNK):
        share = torch.rand(len(y), 1, generator=generator)
        masked = torch.rand(len(y), canvas.num_tokens, generator=generator) < share
        states = model(torch.where(masked[:, canvas.token_of], MASK_ID, y), canvas)[:, tokens]
        asked = masked[:, tokens]
        truth = span.codec.decode(canvas.view(y, span.name))[asked]
        mass.index_add_(0, truth, model.logits(states[asked], span).float().softmax(-1))
    return mass


def language_model(folder: str | Path) -> tuple[Any, Tensor]:
    """The tokenizer and the input embeddings (ids, d) of a language model.

    Raises ValueError where transformers is absent or cannot read the folder.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ValueError("--source embeddings needs transformers: pip install transformers")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder} is no language model in transformers format: {error}") from error
    return tokenizer, model.get_input_embeddings().weight.detach()


def piece_embeddings(theirs: Any, table: Tensor, tokenizer: TextTokenizer) -> Tensor:
    """Of each of our ids the mean of `table` over its text's pieces under their tokenizer, unit length, (C, d).

    An id that is no text by itself (pad, end, a lone byte of a longer character) has the zero vector.
    """
    vectors = torch.zeros(tokenizer.vocab_size, table.shape[1])
    for index in range(tokenizer.vocab_size):
        text = "" if index in (tokenizer.pad_id, tokenizer.end_id) else tokenizer.piece(index)
        pieces = [] if "\ufffd" in text else theirs(text, add_special_tokens=False)["input_ids"]
        if pieces:
            vectors[index] = table[torch.tensor(pieces)].mean(0)
    return F.normalize(vectors, dim=-1)


# ---------------------------------------------------------------------------------------------------- sources


def _ppmi(recipe: Recipe) -> Source:
    corpus = _corpus(recipe.needs("data"), recipe.tokenizer, recipe.text_length)
    span = _one(recipe.span, list(corpus.lengths))
    read = {"span": span, "data": corpus.fingerprint, "dim": recipe.dim}
    return read, lambda: neighbour_vectors(corpus, span, recipe.dim, recipe.seed)


def _codebook(recipe: Recipe) -> Source:
    tokenizer = load_image_tokenizer(resolve(recipe.needs("tokenizer")))
    return {"span": "image", "tokenizer": tokenizer.fingerprint()}, lambda: tokenizer.codebook_vectors().float()


def _decoder(recipe: Recipe) -> Source:
    tokenizer = ImageTokenizer.load(resolve(recipe.needs("tokenizer")))
    return {"span": "image", "tokenizer": tokenizer.fingerprint()}, lambda: drawn_patches(tokenizer)


def _head(recipe: Recipe) -> Source:
    model, canvas, config = load_model(resolve(recipe.needs("model")))
    if not isinstance(model, PrimeDiT):
        raise ValueError(f"{recipe.model} stands around a network of another library; take source=confusion")
    span = _one(recipe.span, [span.name for span in canvas.spans])
    return {
        "span": span,
        "model": config["weights_sha256"][:16],
    }, lambda: model.heads[span].get_parameter("linear.weight").detach()


def _confusion(recipe: Recipe) -> Source:
    folder = resolve(recipe.needs("model"))
    model, canvas, config = load_model(folder)
    span = canvas.span(_one(recipe.span, [span.name for span in canvas.spans]))
    text = folder / config.get("tokenizers", {}).get("text", "") if "text" in config.get("tokenizers", {}) else ""
    length = canvas.span("text").num_tokens if canvas.has("text") else 0
    corpus = _corpus(recipe.needs("data"), recipe.tokenizer or str(text), length)
    for each in canvas.spans:
        if corpus.num_codes.get(each.name) != each.codec.num_codes:
            num_codes = corpus.num_codes.get(each.name, "none")
            raise ValueError(f"span {each.name!r}: the model has {each.codec.num_codes} codes, the data {num_codes}")
    examples = corpus.train.subset(recipe.rows, recipe.seed)
    read = {
        "span": span.name, "data": corpus.fingerprint, "model": config["weights_sha256"][:16],
        "dim": recipe.dim, "rows": len(examples),
    }  # fmt: skip

    def vectors() -> Tensor:
        mass = confusion(model, canvas, span, examples, recipe.seed)
        return count_vectors(mass + mass.T, recipe.dim, recipe.seed)

    return read, vectors


def _embeddings(recipe: Recipe) -> Source:
    folder, tokenizer = Path(recipe.needs("model")), TextTokenizer.load(resolve(recipe.needs("tokenizer")))
    theirs, table = language_model(folder)
    weights = [file.read_bytes() for file in sorted(folder.glob("*.safetensors"))]
    read = {"span": "text", "tokenizer": tokenizer.fingerprint(), "model": digest(*weights)[:16]}
    return read, lambda: piece_embeddings(theirs, table, tokenizer)


SOURCES: dict[str, Callable[[Recipe], Source]] = {
    "ppmi": _ppmi,
    "codebook": _codebook,
    "decoder": _decoder,
    "head": _head,
    "confusion": _confusion,
    "embeddings": _embeddings,
}


def _corpus(data: str, tokenizer: str, text_length: int) -> Corpus:
    kind = str(read_index(data_folder(data))["kind"])
    length = text_length or (TEXT_LENGTH if kind in ("text", "tokens") else 0)
    config = DataConfig(kind="codes" if kind == "codes" else "text", path=data, validation=[], text_length=length)
    config.text_tokenizer = tokenizer if length else ""
    return load_corpus(config, seed=0)


def _one(asked: str, spans: list[str]) -> str:
    """The span that was asked for, or the only one. Raises ValueError."""
    if asked not in spans and (asked or len(spans) > 1):
        raise ValueError(f"--span {asked or '?'}: choose one of {', '.join(spans)}")
    return asked or spans[0]
