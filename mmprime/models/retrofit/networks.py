"""The networks that a `Retrofit` stands around, and what it takes of them: trunk, embedding, head.

Those of transformers are imported when one is built. Causal ones are given a mask that lets every token attend to all.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CAUSAL, DIT, MASKED, RetrofitConfig
from .dit import MdlmDiT

_NO_IDS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
_NO_DROPOUT = {
    "gpt2": ("embd_pdrop", "attn_pdrop", "resid_pdrop"),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}


class ForeignHead(nn.Module):
    """States (M, D) -> logits (M, V): a transform, then a linear map, or the embedding's own matrix and a bias."""

    def __init__(self, transform: nn.Module, linear: nn.Linear, tied: bool) -> None:
        super().__init__()
        self.transform = transform
        self.linear = None if tied else linear
        self.bias = linear.bias if tied else None

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.transform(hidden)
        return F.linear(hidden, embedding, self.bias) if self.linear is None else self.linear(hidden)


class Roberta(nn.Module):
    """What RoBERTa does to states before its matrix of codes."""

    def __init__(self, dense: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.dense, self.norm = dense, norm

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(hidden)))


def build_network(config: RetrofitConfig) -> Any:
    """The network of a config under the names of its own library. Raises ValueError on sizes that do not fit."""
    if config.family == DIT:
        return MdlmDiT(**config.architecture)
    check_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    no_dropout = dict.fromkeys(_NO_DROPOUT.get(config.family, ()), 0.0)
    kind = AutoModelForCausalLM if config.family in CAUSAL else AutoModelForMaskedLM
    try:
        settings = AutoConfig.for_model(config.family, **config.architecture, **no_dropout, **_NO_IDS)
        return kind.from_config(settings, dtype=torch.float32)
    except Exception as error:  # of several libraries, by which size does not fit
        raise ValueError(f"model: no {config.family} of these sizes: {' '.join(str(error).split())[:200]}") from error


def split_network(network: Any, family: str) -> tuple[nn.Module, ForeignHead]:
    """Its trunk, which holds the embedding, and its head."""
    if family == DIT:
        head = ForeignHead(nn.Identity(), network.output_layer.linear, False)
        del network.output_layer.linear
        return network, head
    trunk = getattr(network, network.base_model_prefix)
    transform: nn.Module = nn.Identity()
    if family == "bert":
        transform = network.cls.predictions.transform
    elif family == "roberta":
        transform = Roberta(network.lm_head.dense, network.lm_head.layer_norm)
    elif family in MASKED:
        transform = network.head
    out = network.get_output_embeddings()
    return trunk, ForeignHead(transform, out, out.weight is network.get_input_embeddings().weight)


def embedding_of(trunk: Any, family: str) -> Tensor:
    """(V, D) rows by id."""
    return trunk.vocab_embed.embedding if family == DIT else trunk.get_input_embeddings().weight


def layers_of(trunk: Any, family: str) -> nn.ModuleList:
    """The blocks, in order."""
    if family == "gpt2":
        return trunk.h
    if family == DIT:
        return trunk.blocks
    return trunk.encoder.layer if family in ("bert", "roberta") else trunk.layers


def run_trunk(trunk: Any, family: str, x: Tensor, masked: Tensor) -> Tensor:
    """Embeddings (B, L, D) and the masked share (B,) -> states (B, L, D), of which the head makes logits."""
    if family == DIT:
        return trunk(x, masked)
    options: dict[str, Any] = {}
    if family in CAUSAL:
        length = x.shape[1]
        options = {
            "attention_mask": torch.ones(1, 1, length, length, dtype=torch.bool, device=x.device),
            "use_cache": False,
        }
    return trunk(inputs_embeds=x, **options).last_hidden_state


def check_transformers() -> None:
    """Raises ValueError naming the extra where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise ValueError("this model stands around a network of transformers: pip install 'mmprime[retrofit]'")
