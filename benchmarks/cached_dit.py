"""Approximate sampling: keys and values of tokens are kept from step to step and computed anew only where they matter.

    every `refresh` steps             all tokens go through the trunk; keys and values of every block are kept
    the steps between (partial)       only tokens that are read, or have changed, go through; they attend to all tokens,
                                      of which the others are as they were when last computed

With a block size, a refresh is due when the sampler moves on to another block, a partial step computes all tokens of
the current block (dual cache) or all from its start on (prefix cache). refresh = 1 computes everything.

Sources: Wu et al., "Fast-dLLM", arXiv 2505.22618 (prefix and dual cache); Liu et al., "dLLM-Cache", arXiv 2506.06295
(refresh interval). Under attention in both directions all of this is approximate;
`python benchmarks/caches.py` measures the error, benchmarks/notes/2026-11-24-speed.md has what it found.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmprime.engine import BaseDenoiser, Canvas, Condition, Span
from mmprime.models import PrimeDiT
from mmprime.models.layers import AttentionScope, positions, put

_ROW = "cache_row"


class CachedDiT(BaseDenoiser):
    """A denoiser around a `PrimeDiT`, for one run at a time: give the run `cond=cached.condition(batch)`.

    refresh: steps from one full pass to the next, None for no limit. block: tokens of a block, None for no blocks;
    prefix: keep what lies before the current block only. What an example gets depends on its own steps alone. The
    passes a run counts hold partial ones; `share` is what part of full passes was computed.
    Raises ValueError on refresh or block below 1, a prefix without blocks, neither refresh nor block, or patches.
    """

    def __init__(
        self, model: PrimeDiT, refresh: int | None = None, block: int | None = None, prefix: bool = False
    ) -> None:
        if (refresh is not None and refresh < 1) or (block is not None and block < 1):
            raise ValueError(f"refresh and block must be at least 1, got {refresh} and {block}")
        if (refresh is None and block is None) or (prefix and block is None):
            raise ValueError("a cache needs a refresh interval or a block size, and a prefix cache a block size")
        if model.config.patch > 1:
            raise ValueError(f"a cache keeps tokens, and the trunk has patches here (patch={model.config.patch})")
        self.model, self.refresh, self.block, self.prefix = model, refresh, block, prefix

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return self.model.logits(hidden, span)

    def condition(self, batch: int, cond: Condition | None = None) -> Condition:
        """`cond` for a new run of `batch` examples; forgets the run before."""
        self._memory: Tensor | None = None  # (blocks, keys and values, R, L, H, Dh)
        self._seen: Tensor | None = None
        self._age = torch.full((batch,), -1)  # steps since the full pass, -1 before the first
        self._start = torch.full((batch,), -1)  # first token of the current block
        self._computed = self._offered = 0
        return {**(cond or {}), _ROW: torch.arange(batch)}

    @property
    def share(self) -> float:
        """Tokens that went through the trunk so far, as a part of those of full passes."""
        return self._computed / self._offered

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        return self.hidden_at(y, canvas, cond, torch.ones(len(y), canvas.num_tokens, dtype=torch.bool, device=y.device))

    def null_condition(self, cond: Condition) -> Condition:
        raise ValueError("a cache holds one branch only: sample without guidance, or without the cache")

    @torch.no_grad()
    def hidden_at(self, y: Tensor, canvas: Canvas, cond: Condition | None, wanted: Tensor) -> Tensor:
        """As `PrimeDiT.hidden_at`, approximately. Raises ValueError without `condition`."""
        if cond is None or _ROW not in cond:
            raise ValueError("start a run with a cache as sample(cached, ..., cond=cached.condition(batch))")
        row = cond[_ROW]
        plain = {name: value for name, value in cond.items() if name != _ROW}
        fresh = self._due(row, wanted)
        active = fresh[:, None] | self._around(row, wanted) | self._changed(row, y, canvas)
        out = torch.zeros(len(y), canvas.num_tokens, self.model.config.width, device=y.device)
        for group in (fresh, ~fresh):
            some = group.nonzero()[:, 0]
            if len(some):
                cond_of = {name: value[some] for name, value in plain.items()}
                out[some] = self._pass(row[some], y[some], canvas, cond_of, active[some]).to(out.dtype)
        self._computed += int(active.sum())
        self._offered += active.numel()
        return out

    # ---------------------------------------------------------------- which tokens

    def _due(self, row: Tensor, wanted: Tensor) -> Tensor:
        """(A,): who needs a full pass; counts the steps."""
        due = self._age[row] < 0
        self._age[row] += 1
        if self.refresh is not None:
            due |= self._age[row] >= self.refresh
        if self.block is not None:
            start = wanted.byte().argmax(-1) // self.block * self.block
            due |= start != self._start[row]
            self._start[row] = start
        self._age[row[due]] = 0
        return due

    def _around(self, row: Tensor, wanted: Tensor) -> Tensor:
        """(A, L): the tokens wanted, or with blocks all of the current one."""
        if self.block is None:
            return wanted
        position, start = torch.arange(wanted.shape[1]), self._start[row][:, None]
        stop = wanted.shape[1] if self.prefix else start + self.block
        return wanted | ((position >= start) & (position < stop))

    def _changed(self, row: Tensor, y: Tensor, canvas: Canvas) -> Tensor:
        """(A, L): tokens that differ from when they were last computed."""
        if self._seen is None:
            self._seen = y.new_full((len(self._age), y.shape[1]), -2)
        differs = (self._seen[row] != y).long()
        self._seen[row] = y
        changed = differs.new_zeros(len(y), canvas.num_tokens)
        return changed.index_add_(1, canvas.token_of.to(y.device), differs) > 0

    # ---------------------------------------------------------------- one pass

    def _pass(self, row: Tensor, y: Tensor, canvas: Canvas, cond: Condition, active: Tensor) -> Tensor:
        at = positions(active)
        if self._memory is None:
            heads, width = self.model.config.heads, self.model.config.width
            shape = (len(self.model.blocks), 2, len(self._age), canvas.num_tokens, heads, width // heads)
            self._memory = torch.zeros(shape, device=y.device)
        scopes = [_Recall(layer, row, at) for layer in self._memory]
        return put(self.model.through(y, canvas, cond, scopes, at), at, canvas.num_tokens)


class _Recall(AttentionScope):
    """All tokens that came in leave; they attend to all tokens, the others by the keys and values kept of them."""

    def __init__(self, memory: Tensor, row: Tensor, at: Tensor) -> None:
        """memory (2, R, L, H, Dh) of one block; the tokens are those `at` (A, W) of its rows `row` (A,)."""
        self.memory, self.row, self.at = memory, row, at

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.memory[:, self.row[:, None], self.at] = torch.stack([k, v]).to(self.memory.dtype)
        keys, values = self.memory[:, self.row].to(q.dtype)
        return q, keys, values
