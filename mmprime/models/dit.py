"""PrimeDiT: a transformer over tokens whose digits may be masked one by one.

    y (B, N) --embedding of each span--> (B, L, D) --blocks--> (B, L, D) --head of the span--> (tokens, C)

It knows no time: what is masked says it all. Modalities meet in the trunk; each has its embedding and its head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmprime.engine import BaseDenoiser, Canvas, Condition, Span

from .attention import Segments
from .conditioning import Conditioning, check_names
from .config import DiTConfig
from .embedding import TokenEmbedding
from .layers import AttentionScope, AttentionSubset, Block, Modulation, modulate, positions, put, rms_norm, take
from .rotary import RotaryTables


class Head(nn.Module):
    """Hidden states of tokens (M, D) -> logits (M, C) in code order; all zero at first, so all codes are alike."""

    def __init__(self, width: int, num_codes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_codes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(rms_norm(hidden))


class PrimeDiT(nn.Module, BaseDenoiser):
    """A denoiser in the engine's sense. `canvas` names the modalities; other canvases may have other lengths.

    Raises ValueError on a config that does not fit itself.
    """

    def __init__(self, canvas: Canvas, config: DiTConfig | None = None) -> None:
        super().__init__()
        config = (config or DiTConfig()).resolve()
        self.canvas, self.config = canvas, config
        embedding = config.width, config.token_embedding, config.digit_embedding
        self.embedders = nn.ModuleDict({span.name: TokenEmbedding(span, *embedding) for span in canvas.spans})
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.heads = nn.ModuleDict({span.name: Head(config.width, span.codec.num_codes) for span in canvas.spans})
        self.conditioning = Conditioning(config) if config.is_conditional else None
        self.final = Modulation(config.width, 2) if config.is_conditional else None
        self.rotary = RotaryTables(config.width // config.heads)

    # ---------------------------------------------------------------- the denoiser

    def forward(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        """y (B, N) int64, -1 where masked -> hidden states (B, L, D) of all tokens in canvas order.

        Raises ValueError on shapes, digits, spans or conditions that do not fit.
        """
        return self._trunk(self._embed(y, canvas), self.rotary(canvas, y.device), self._condition(y, cond))

    def hidden_at(self, y: Tensor, canvas: Canvas, cond: Condition | None, wanted: Tensor) -> Tensor:
        """As `forward` at the tokens `wanted` (B, L) bool, zero elsewhere; the last block computes no others."""
        at = positions(wanted)
        x = self.through(y, canvas, cond, [None] * (len(self.blocks) - 1) + [AttentionSubset(at)])
        return put(x, at, canvas.num_tokens)

    def through(
        self,
        y: Tensor,
        canvas: Canvas,
        cond: Condition | None,
        scopees: Sequence[AttentionScope | None],
        at: Tensor | None = None,
    ) -> Tensor:
        """The tokens `at` (B, W), or all, go through the trunk, each block with its own scope -> (B, W', D)."""
        x, table = self._embed(y, canvas), self.rotary(canvas, y.device)
        if at is not None:
            x, table = take(x, at), table[at]
        return self._trunk(x, table, self._condition(y, cond), scopees=scopees)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        """Hidden states (M, D) of tokens of a span -> (M, C)."""
        return self.heads[self._known(span).name](hidden)

    def null_condition(self, cond: Condition) -> Condition:
        """The same condition without its labels (the null class): the other branch of guidance."""
        if self.conditioning is None:
            check_names(cond, ())
            return {}
        return self.conditioning.null(cond)

    # ---------------------------------------------------------------- examples of different length

    def forward_packed(
        self, ys: Sequence[Tensor], canvases: Sequence[Canvas], cond: Condition | None = None
    ) -> list[Tensor]:
        """Examples (N_i,), each on its canvas, in one row of ΣL_i tokens -> hidden states [(L_i, D)].

        cond holds one entry for each example. The same numbers as one by one.
        """
        parts = self._embed_each(ys, canvases)
        lengths = [len(part) for part in parts]
        device = parts[0].device
        owner = torch.repeat_interleave(torch.arange(len(parts), device=device), torch.tensor(lengths, device=device))
        condition = self._condition_each(ys, cond)
        if condition is not None:
            condition = condition[owner].transpose(0, 1)
        table = torch.cat([self.rotary(canvas, device) for canvas in canvases])
        x = self._trunk(torch.cat(parts)[None], table, condition, Segments(owner[None]))
        return list(x[0].split(lengths))

    def forward_padded(
        self, ys: Sequence[Tensor], canvases: Sequence[Canvas], cond: Condition | None = None
    ) -> list[Tensor]:
        """Like `forward_packed`, each example a row of its own, padded to the longest."""
        parts = self._embed_each(ys, canvases)
        longest = max(len(part) for part in parts)
        x = torch.stack([F.pad(part, (0, 0, 0, longest - len(part))) for part in parts])
        tables = [self.rotary(canvas, x.device) for canvas in canvases]
        table = torch.stack([F.pad(t, (0, 0, 0, 0, 0, longest - len(t))) for t in tables])
        lengths = torch.tensor([len(part) for part in parts], device=x.device)
        ids = -(torch.arange(longest, device=x.device) >= lengths[:, None]).long()
        x = self._trunk(x, table, self._condition_each(ys, cond), Segments(ids))
        return [row[: len(part)] for row, part in zip(x, parts)]

    # ---------------------------------------------------------------- switches

    def compile_blocks(self) -> None:
        """torch.compile each block in place; names and weights stay as they are."""
        for block in self.blocks:
            block.compile()

    # ---------------------------------------------------------------- parts

    def _embed(self, y: Tensor, canvas: Canvas) -> Tensor:
        if y.ndim != 2 or y.shape[1] != canvas.num_subtokens or y.dtype != torch.int64:
            raise ValueError(f"y must be int64 of shape (B, {canvas.num_subtokens}), got {y.dtype} {tuple(y.shape)}")
        parts = [self.embedders[self._known(span).name](canvas.view(y, span.name), span) for span in canvas.spans]
        return torch.cat(parts, 1)

    def _embed_each(self, ys: Sequence[Tensor], canvases: Sequence[Canvas]) -> list[Tensor]:
        if len(ys) != len(canvases) or not ys:
            raise ValueError(f"need one canvas for each example, got {len(ys)} and {len(canvases)}")
        return [self._embed(y[None], canvas)[0] for y, canvas in zip(ys, canvases)]

    def _condition(self, y: Tensor, cond: Condition | None) -> Tensor | None:
        if self.conditioning is None:
            check_names(cond or {}, ())
            return None
        return self.conditioning(y, cond)

    def _condition_each(self, ys: Sequence[Tensor], cond: Condition | None) -> Tensor | None:
        """(E, 1, D) for E examples, or None."""
        each = [
            self._condition(y[None], {name: value[i : i + 1] for name, value in (cond or {}).items()})
            for i, y in enumerate(ys)
        ]
        parts = [condition for condition in each if condition is not None]
        return torch.cat(parts) if parts else None

    def _known(self, span: Span) -> Span:
        """The model's own span of that name. Raises ValueError if its codec is another."""
        known = self.canvas.span(span.name)
        if span.codec is not known.codec and span.codec != known.codec:
            raise ValueError(f"span {span.name!r}: the model was built for {known.codec!r}, got {span.codec!r}")
        return known

    def _trunk(
        self,
        x: Tensor,
        table: Tensor,
        condition: Tensor | None,
        segments: Segments | None = None,
        scopees: Sequence[AttentionScope | None] | None = None,
    ) -> Tensor:
        backend = self.config.attention
        for block, scope in zip(self.blocks, scopees or [None] * len(self.blocks)):
            if self.config.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, table, condition, segments, backend, scope, use_reentrant=False)
            else:
                x = block(x, table, condition, segments, backend, scope)
        if self.final is not None and condition is not None:
            x = modulate(rms_norm(x), *self.final(condition))
        return x
