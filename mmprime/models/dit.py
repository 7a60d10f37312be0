"""PrimeDiT: a transformer over tokens whose digits may be masked one by one.

    y (B, N) --embedding of each span--> (B, L, D) --blocks--> (B, L, D) --head of the span--> logits

With `patch` the blocks see p x p tokens of a grid as one position: (B, L, D) -> (B, P, D) -> blocks -> (B, L, D).
It knows no time: what is masked says it all. Modalities meet in the trunk; each has its embedding and its head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from mmprime.engine import Canvas, Condition, DigitQuery, Head, Span

from .conditioning import Conditioning, check_names
from .config import DiTConfig
from .embedding import TokenEmbedding
from .heads import ChainNet, FactoredNet, SoftmaxNet
from .layers import (
    ALL_TOKENS,
    AttentionScope,
    AttentionSubset,
    Block,
    Modulation,
    modulate,
    positions,
    put,
    rms_norm,
    take,
)
from .network import Network
from .patches import Patches
from .rotary import RotaryTables

_ATEN = torch.ops.aten
_PRODUCTS = [
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
]
_CHECKPOINTING: dict[str, Callable[[], Any] | None] = {
    "none": None,
    "full": noop_context_fn,
    "selective": partial(create_selective_checkpoint_contexts, _PRODUCTS),  # their results are kept
}


class PrimeDiT(Network):
    """A denoiser in the engine's sense. `canvas` names the modalities; other canvases may have other lengths.

    Raises ValueError on a config that does not fit itself.
    """

    def __init__(self, canvas: Canvas, config: DiTConfig | None = None) -> None:
        super().__init__()
        config = (config or DiTConfig()).resolve()
        self.canvas, self.config = canvas, config
        embedding = config.width, config.token_embedding, config.digit_embedding
        self.embedders = nn.ModuleDict({span.name: TokenEmbedding(span, *embedding) for span in canvas.spans})
        self.patches = Patches(canvas, config.width, config.patch)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.kinds = {span.name: config.head_of(span) for span in canvas.spans}
        self.heads = nn.ModuleDict({span.name: self._net(span) for span in canvas.spans})
        self.conditioning = Conditioning(config) if config.is_conditional else None
        self.final = Modulation(config.width, 2) if config.is_modulated else None
        self.rotary = RotaryTables(config.width // config.heads)

    # ---------------------------------------------------------------- the denoiser

    def forward(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        """y (B, N) int64, -1 where masked -> hidden states (B, L, D) of all tokens in canvas order.

        Raises ValueError on shapes, digits, spans or conditions that do not fit.
        """
        embedded, condition = self._start(y, canvas, cond)
        return self.patches.tokens(self._through(embedded, condition, canvas), embedded, canvas)

    def hidden_at(self, y: Tensor, canvas: Canvas, cond: Condition | None, wanted: Tensor) -> Tensor:
        """As `forward` at the tokens `wanted` (B, L) bool; the last block computes no others but those of their
        patches, and what stands elsewhere means nothing."""
        at, (embedded, condition) = positions(self.patches.wanted(wanted, canvas)), self._start(y, canvas, cond)
        scopes = [*[ALL_TOKENS] * (len(self.blocks) - 1), AttentionSubset(at)]
        x = self._through(embedded, condition, canvas, scopes)
        return self.patches.tokens(put(x, at, self.patches.coarse(canvas).num_tokens), embedded, canvas)

    def through(
        self,
        y: Tensor,
        canvas: Canvas,
        cond: Condition | None,
        scopes: Sequence[AttentionScope],
        at: Tensor | None = None,
    ) -> Tensor:
        """The positions `at` (B, W), or all, go through the trunk, each block with its own scope -> (B, W', D).

        Positions are tokens, or patches of them.
        """
        return self._through(*self._start(y, canvas, cond), canvas, scopes, at)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        """Hidden states (M, D) of tokens of a span with the head "softmax" -> (M, C)."""
        return self.heads[self._known(span).name](hidden)

    def code_logits(self, hidden: Tensor, span: Span, codes: Tensor) -> Tensor:
        """The same of the codes (M, K) asked for, by their rows of the weight -> (M, K)."""
        return self.heads[self._known(span).name](hidden, codes)

    def code_nats(self, hidden: Tensor, span: Span, code: Tensor) -> Tensor:
        """-log softmax (M,) of the logits at one code (M,) of each token, with its gradient at one go."""
        return self.heads[self._known(span).name](hidden, true=code)

    def head(self, span: Span) -> Head:
        """The head of a span, as the config has it."""
        return self.kinds[span.name]

    def digit_logits(self, hidden: Tensor, span: Span, query: DigitQuery) -> Tensor:
        """Hidden states (M, D) of tokens of a span with another head -> (R, max b) of the digits asked for."""
        return self.heads[self._known(span).name](hidden, query)

    def null_condition(self, cond: Condition) -> Condition:
        """The same condition without its labels (the null class): the other branch of guidance."""
        if self.conditioning is None:
            check_names(cond, ())
            return {}
        return self.conditioning.null(cond)

    # ---------------------------------------------------------------- switches

    @property
    def layers(self) -> nn.ModuleList:
        return self.blocks

    # ---------------------------------------------------------------- parts

    def _net(self, span: Span) -> nn.Module:
        """The network behind the head of a span."""
        kind, width = self.kinds[span.name], self.config.width
        if kind.name == "softmax":
            return SoftmaxNet(width, span.codec)
        return (
            ChainNet(width, span.codec, self.config.head_width or width)
            if kind.chains
            else FactoredNet(width, span.codec)
        )

    def _embed(self, y: Tensor, canvas: Canvas) -> Tensor:
        if y.ndim != 2 or y.shape[1] != canvas.num_subtokens or y.dtype != torch.int64:
            raise ValueError(f"y must be int64 of shape (B, {canvas.num_subtokens}), got {y.dtype} {tuple(y.shape)}")
        parts = [self.embedders[self._known(span).name](canvas.view(y, span.name), span) for span in canvas.spans]
        return torch.cat(parts, 1)

    def _start(self, y: Tensor, canvas: Canvas, cond: Condition | None) -> tuple[Tensor, Tensor | None]:
        """The embedded tokens (B, L, D), and what modulates the blocks (B, 1, D) or None."""
        x = self._embed(y, canvas)
        if self.conditioning is None:
            check_names(cond or {}, ())
            return x, None
        condition = self.conditioning(y, cond)
        return (x, condition) if self.config.is_modulated else (x + condition, None)

    def _known(self, span: Span) -> Span:
        """The model's own span of that name. Raises ValueError if its codec is another."""
        known = self.canvas.span(span.name)
        if span.codec is not known.codec and span.codec != known.codec:
            raise ValueError(f"span {span.name!r}: the model was built for {known.codec!r}, got {span.codec!r}")
        return known

    def _through(
        self,
        embedded: Tensor,
        condition: Tensor | None,
        canvas: Canvas,
        scopes: Sequence[AttentionScope] | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Embeddings (B, L, D) of all tokens -> states (B, P, D) of the positions, or of those `at` (B, W)."""
        x, table = self.patches.positions(embedded, canvas), self.rotary(self.patches.coarse(canvas), embedded.device)
        if at is not None:
            x, table = take(x, at), table[at]
        return self._trunk(x, table, condition, scopes)

    def _trunk(
        self, x: Tensor, table: Tensor, condition: Tensor | None, scopes: Sequence[AttentionScope] | None = None
    ) -> Tensor:
        backend, kept = self.config.attention, _CHECKPOINTING[self.config.checkpointing]
        for block, scope in zip(self.blocks, scopes or [ALL_TOKENS] * len(self.blocks)):
            if kept is not None and torch.is_grad_enabled():
                x = checkpoint(block, x, table, condition, backend, scope, use_reentrant=False, context_fn=kept)
            else:
                x = block(x, table, condition, backend, scope)
        if self.final is not None and condition is not None:
            x = modulate(rms_norm(x), *self.final(condition))
        return x
