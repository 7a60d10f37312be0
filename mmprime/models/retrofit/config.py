"""The options of a `Retrofit`: which network it stands around, and how that network is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

CAUSAL, MASKED, DIT = ("llama", "qwen2", "gpt2"), ("bert", "roberta", "modernbert"), "dit"
_COMMON = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
    "max_position_embeddings", "tie_word_embeddings", "rope_parameters",
)  # fmt: skip
_LLAMA = (*_COMMON, "num_key_value_heads", "head_dim", "rms_norm_eps")
_BERT = (*_COMMON, "type_vocab_size", "layer_norm_eps", "pad_token_id")
ARCHITECTURE: dict[str, tuple[str, ...]] = {  # by family, the entries of its config that a retrofit keeps
    "llama": (*_LLAMA, "attention_bias", "mlp_bias"),
    "qwen2": (*_LLAMA, "use_sliding_window", "sliding_window", "layer_types"),
    "gpt2": (
        "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function",
        "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
        "tie_word_embeddings",
    ),
    "bert": _BERT,
    "roberta": _BERT,
    "modernbert": (
        *_COMMON, "hidden_activation", "norm_eps", "norm_bias", "layer_types", "local_attention", "attention_bias",
        "mlp_bias", "decoder_bias", "classifier_bias", "classifier_activation", "pad_token_id",
    ),
    DIT: ("vocab_size", "width", "depth", "heads", "condition", "block_size", "timed"),
}  # fmt: skip


@dataclass(frozen=True)
class RetrofitConfig:
    """family: of the network, a key of `ARCHITECTURE`; architecture: its sizes.

    mask_id: the network's id of a masked token, whose embedding is where that of a masked token starts; None: the mean
    over the vocabulary. shift: token i is predicted by the network's output at i - 1 (at 0 for the first, where nothing
    stands before it). before, after: ids that always stand around a row. Raises ValueError on what does not fit.
    """

    family: str
    architecture: dict[str, Any]
    mask_id: int | None = None
    shift: bool = False
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)

    RUN_SWITCHES: ClassVar[tuple[str, ...]] = ()
    num_classes: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.family not in ARCHITECTURE:
            raise ValueError(f"model: family {self.family!r} is none; there are {', '.join(ARCHITECTURE)}")
        if unknown := sorted(set(self.architecture) - set(ARCHITECTURE[self.family])):
            raise ValueError(f"model: a {self.family} has no {', '.join(unknown)}")
        rows = self.architecture.get("vocab_size")
        if not isinstance(rows, int) or rows < 1:
            raise ValueError(f"model: vocab_size must be a positive whole number, got {rows!r}")
        ids = [*self.before, *self.after, *([] if self.mask_id is None else [self.mask_id])]
        if bad := [each for each in ids if not isinstance(each, int) or not 0 <= each < rows]:
            raise ValueError(f"model: id {bad[0]!r} is not in the vocabulary of {rows}")

    @property
    def rows(self) -> int:
        """V: rows of the network's vocabulary, padding included."""
        return int(self.architecture["vocab_size"])

    @property
    def longest(self) -> int | None:
        """Tokens of a row for which the network has positions; None: any number."""
        known = self.architecture.get("max_position_embeddings", self.architecture.get("n_positions"))
        if known is None:
            return None
        pad = self.architecture.get("pad_token_id") if self.family == "roberta" else None
        return int(known) - len(self.before) - len(self.after) - (0 if pad is None else int(pad) + 1)
