"""A model folder of a text network that others trained: its weights, its tokenizer, how it is sampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mmprime.engine import Canvas, Codec, Span, sampler_of

from .defaults import TEXT_STEPS, default_sampling
from .model_folder import ModelCard
from .sampling import SamplingConfig
from .saving import write_model_folder

if TYPE_CHECKING:
    from mmprime.models import Retrofit, RetrofitConfig
    from mmprime.tokenizers import TextTokenizer

MASKING = "token_synchronous"
_USED = 0.9  # of a vocabulary at least; what is more is another tokenizer's


def convert_text_model(
    layout: str,
    name: str,
    out: Path,
    tokenizer: Path | None = None,
    length: int = 128,
    digits: int = 1,
) -> Retrofit:
    """Write the model folder `out`: rows of `length` tokens, of `digits` digits each, clustered by the embedding.

    layout: of `mmprime.models.retrofit.formats`. name: of the source, as `find_checkpoint` takes it. tokenizer: where
    the source has none. Raises ValueError as `find_checkpoint`, `read_format` and `TextTokenizer.load` do, and on a
    tokenizer that is not the network's.
    """
    from mmprime.models import Retrofit
    from mmprime.models.retrofit.base import Checkpoint, find_checkpoint, weights_sha256
    from mmprime.models.retrofit.formats import read_format
    from mmprime.tokenizers import TextTokenizer

    source, called = find_checkpoint(name)
    config, network = read_format(layout, source)
    kept = str(source.resolve()) if Path(name).exists() else name
    checkpoint = Checkpoint(layout, kept, weights_sha256(network)).entry()
    words = TextTokenizer.load(tokenizer or source)
    config = _with_ids(config, words, layout)
    _check_vocabulary(words, config, tokenizer or source)
    codes = words.vocab_size
    rows: Tensor = (network.vocab_embed.embedding if layout in _OWN else network.get_input_embeddings().weight).detach()
    vectors = rows[[min(code, len(rows) - 1) for code in range(codes)]] if digits > 1 else rows
    codec = Codec.base(codes, 1) if digits == 1 else Codec.clustered(vectors, digits)
    canvas = Canvas([Span("text", length, codec)])
    model = Retrofit(canvas, config, network).start()
    sampling = default_sampling(canvas, MASKING)
    if block := config.architecture.get("block_size"):
        sampling = {"text": SamplingConfig(sampler_of("blocks", {"size": block}), TEXT_STEPS)}
    card = ModelCard(
        masking=MASKING, trained_on=(MASKING,), base=f"{called} ({layout})", checkpoint=checkpoint, name=out.name
    )
    write_model_folder(out, model, canvas, card, sampling, (words, None))
    return model


_OWN = ("mdlm", "duo", "bd3lm")


def _with_ids(config: RetrofitConfig, tokenizer: TextTokenizer, layout: str) -> RetrofitConfig:
    """What the tokenizer says: the id of a mask, and what stands around a text. Raises ValueError without a mask."""
    if layout == "causal":
        return replace(config, before=[tokenizer.end_id] if tokenizer.end_id < config.rows else [])
    if layout != "masked":
        return config
    mask = tokenizer.id_of("[MASK]", "<mask>")
    if mask is None or mask >= config.rows:
        raise ValueError(f"the tokenizer has no [MASK] or <mask> among the {config.rows} ids of the network")
    first, last = tokenizer.id_of("[CLS]", "<s>"), tokenizer.id_of("[SEP]", "</s>")
    around = [[] if each is None or each >= config.rows else [each] for each in (first, last)]
    return replace(config, mask_id=mask, before=around[0], after=around[1])


def _check_vocabulary(tokenizer: TextTokenizer, config: RetrofitConfig, where: Path) -> None:
    """Raises ValueError unless the network has a row for each id, but for a padding that the tokenizer did not have."""
    beyond = set(range(config.rows, tokenizer.vocab_size)) - {tokenizer.pad_id}
    if beyond or tokenizer.vocab_size < _USED * config.rows:
        raise ValueError(
            f"the tokenizer at {where} has {tokenizer.vocab_size} ids, the network {config.rows} rows: they do not "
            "belong together; name the network's own by --tokenizer DIR"
        )
    if tokenizer.end_id == config.mask_id:
        raise ValueError(
            f"id {config.mask_id} is the end of a text for the tokenizer at {where}, a mask for the network"
        )
