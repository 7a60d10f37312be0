"""A text network of another library as a denoiser.

    token visible     row of its id in the network's embedding
    token masked      m, at first the row of the network's mask id (or the mean of all rows)
    partly visible    m + Σ_j P_j[y_j] over its visible digits, P zero at first

So where tokens are whole, the logits are those of the network; what a digit says is learned by fine-tuning, and until
then a partly visible token is predicted as a masked one, among the codes that its digits leave. A code is the
network's id of that number. Ids beyond the tokenizer (the padding of a vocabulary) and the mask id are never predicted.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprime.codecs.weights import NoInit
from mmprime.engine import Canvas, Condition, Span

from ..network import Network
from .config import RetrofitConfig
from .networks import build_network, embedding_of, layers_of, run_trunk, split_network


class Retrofit(Network):
    """canvas: of one span of text, whose codes are the network's ids. network: built of the config where None.

    Raises ValueError on a canvas that does not fit the network.
    """

    ADAPTED: ClassVar[tuple[str, ...]] = ("trunk.", "heads.")
    ALWAYS_TRAINED: ClassVar[tuple[str, ...]] = ("mask", "digits.")
    never: Tensor
    offset: Tensor
    stride: Tensor
    code_at: Tensor

    def __init__(self, canvas: Canvas, config: RetrofitConfig, network: Any = None) -> None:
        super().__init__()
        self.canvas, self.config = canvas, config
        span = _text_of(canvas, config)
        trunk, head = split_network(network or build_network(config), config.family)
        self.trunk, self.heads = trunk, nn.ModuleDict({span.name: head})
        rows = embedding_of(trunk, config.family)
        self.mask = nn.Parameter(torch.empty_like(rows[0]))
        several = span.codec.num_digits > 1  # else no token is partly visible
        self.digits = nn.Embedding(sum(span.codec.radices), rows.shape[1]) if several else None
        radix = torch.tensor(span.codec.radices, device="cpu")  # real also where weights are shapes (meta)
        stride = torch.tensor([math.prod(span.codec.radices[j + 1 :]) for j in range(len(radix))], device="cpu")
        never = torch.zeros(span.codec.num_codes, device="cpu")
        never[config.rows :] = -torch.inf
        if config.mask_id is not None:
            never[config.mask_id : config.mask_id + 1] = -torch.inf
        buffers = {"offset": radix.cumsum(0) - radix, "stride": stride, "never": never, "code_at": span.codec.code_at}
        for name, value in buffers.items():
            self.register_buffer(name, value.clone(), persistent=False)

    @torch.no_grad()
    def start(self) -> Retrofit:
        """Set the embeddings of masked and of partly visible tokens as above."""
        rows, mask_id = embedding_of(self.trunk, self.config.family), self.config.mask_id
        self.mask.copy_(rows.mean(0).half() if mask_id is None else rows[mask_id])  # a mean that float16 holds
        if self.digits is not None:
            self.digits.weight.zero_()
        return self

    def on_canvas(self, canvas: Canvas) -> Retrofit:
        """The same weights on a canvas of another length or other digits, whose embeddings are then zero."""
        with NoInit():
            model = Retrofit(canvas, self.config)
        state = self.state_dict()
        if canvas.spans[0].codec != self._codec:
            state.pop("digits.weight", None)
            if model.digits is not None:
                state["digits.weight"] = torch.zeros_like(model.digits.weight)
        model.load_state_dict(state)
        return model

    def forward(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        """y (B, N) int64, -1 where masked -> hidden states (B, L, D). Raises ValueError on what does not fit."""
        if cond:
            raise ValueError(f"this model has no conditions, got {', '.join(cond)}")
        if y.ndim != 2 or y.shape[1] != canvas.num_subtokens or y.dtype != torch.int64:
            raise ValueError(f"y must be int64 of shape (B, {canvas.num_subtokens}), got {y.dtype} {tuple(y.shape)}")
        span = self._known(canvas.spans[0], canvas)
        digits = canvas.view(y, span.name)
        radix = torch.tensor(span.codec.radices, device=y.device)
        if bool((bad := ((digits < -1) | (digits >= radix)).any(-1)).any()):
            raise ValueError(f"span {span.name!r}: digits {digits[bad][0].tolist()} outside {span.codec.radices}")
        hidden = run_trunk(self.trunk, self.config.family, self._embed(digits), (y < 0).float().mean(1))
        if self.config.shift:
            hidden = torch.cat([hidden[:, :1], hidden[:, :-1]], 1)
        first = len(self.config.before)
        return hidden[:, first : first + span.num_tokens]

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        """Hidden states (M, D) -> (M, C), -inf for the mask id and for ids that the network does not have."""
        codes = len(self.never)
        logits = self.heads[span.name](hidden, embedding_of(self.trunk, self.config.family))[:, :codes]
        return F.pad(logits, (0, codes - logits.shape[1])) + self.never

    def null_condition(self, cond: Condition) -> Condition:
        """None: there are no conditions."""
        if cond:
            raise ValueError(f"this model has no conditions, got {', '.join(cond)}")
        return {}

    @property
    def layers(self) -> nn.ModuleList:
        return layers_of(self.trunk, self.config.family)

    def fill_buffers(self) -> None:
        with torch.device("cpu"), NoInit():
            buffers = dict(Retrofit(self.canvas, self.config).named_buffers())
        for name, value in self.named_buffers():
            if value.is_meta:
                owner, _, last = name.rpartition(".")
                setattr(self.get_submodule(owner), last, buffers[name])

    def _embed(self, digits: Tensor) -> Tensor:
        """(B, L, S) -> (B, L', D), with what always stands before and after."""
        rows, config = embedding_of(self.trunk, self.config.family), self.config
        visible = digits >= 0
        code = self.code_at[(digits.clamp(min=0) * self.stride).sum(-1)]
        known = visible.all(-1) & (code < config.rows)
        x = torch.where(known[..., None], F.embedding(code.clamp(0, config.rows - 1), rows), self.mask)
        if self.digits is not None:
            partly = visible & ~visible.all(-1, keepdim=True)
            x = x + (self.digits(digits.clamp(min=0) + self.offset) * partly[..., None]).sum(-2)
        fixed = [F.embedding(torch.tensor(ids, device=x.device), rows) for ids in (config.before, config.after) if ids]
        if not fixed:
            return x
        sides = [each.expand(len(x), -1, -1) for each in fixed]
        return torch.cat([*sides[: bool(config.before)], x, *sides[bool(config.before) :]], 1)

    @property
    def _codec(self) -> Any:
        return self.canvas.spans[0].codec

    def _known(self, span: Span, canvas: Canvas) -> Span:
        if span.codec is not self._codec and span.codec != self._codec:
            raise ValueError(f"span {span.name!r}: the model was built for {self._codec!r}, got {span.codec!r}")
        return _text_of(canvas, self.config)


def _text_of(canvas: Canvas, config: RetrofitConfig) -> Span:
    """The one span. Raises ValueError on another canvas, and on one that is longer than the network's positions."""
    span = canvas.spans[0]
    if len(canvas.spans) > 1 or not span.codec.has_table:
        raise ValueError(f"a text network has one span of codes, not {[each.name for each in canvas.spans]}")
    if config.longest is not None and span.num_tokens > config.longest:
        raise ValueError(f"{span.num_tokens} tokens are more than the {config.longest} for which it has positions")
    return span
