"""The options of a `PrimeDiT`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from mmprime.engine import HEADS, Head, Span, head_of

from .attention import BACKENDS
from .presets import preset

MLPS = ("swiglu", "gelu")
DIGIT_EMBEDDINGS = ("sum", "concat", "linear")
CONDITIONINGS = ("adaln_zero", "added")
CHECKPOINTINGS = ("none", "full", "selective")


@dataclass(frozen=True)
class DiTConfig:
    """Options of the trunk. `width`, `depth`, `heads` of 0 take the preset's; `resolve` fills them in.

    Conditioning exists only where one of `num_classes`, `mask_rate`, `guidance_scale` asks for it.
    `attention` and `checkpointing` are switches of a run: they change speed and memory, not the function.
    """

    preset: str = "tiny"
    width: int = 0
    depth: int = 0
    heads: int = 0
    mlp: str = "swiglu"
    mlp_ratio: float = 4.0  # hidden size / width of a plain MLP; SwiGLU takes 2/3 of it, for as many parameters
    qk_norm: bool = True
    digit_embedding: str = "sum"  # of a token's digits; "concat": side by side in width/S channels each, then mixed;
    # "linear": of ordinal digits, a linear map of their values
    token_embedding: bool = True  # also embed a token as a whole once it is wholly visible, where codes have a table
    patch: int = 1  # p x p tokens of a grid are one position of the trunk
    head: str = "auto"  # softmax | factored | chain | auto: softmax where codes have a table, else factored
    span_heads: dict[str, str] = field(default_factory=dict)  # of some spans by name, instead of `head`
    head_rounds: int = 0  # of a chain: digits of one round are independent; 0 is one round a digit
    head_width: int = 0  # of the network inside a chain; 0 is the width of the trunk
    dropout: float = 0.0  # on the output of each residual branch; draws from torch's global generator
    # the condition modulates every block (Peebles & Xie, arXiv 2212.09748) | is added to every token of the input
    conditioning: str = "adaln_zero"
    num_classes: int | None = None
    mask_rate: bool = False  # tell the model the share of masked sub-tokens
    guidance_scale: bool = False  # tell the model a guidance scale, cond["guidance"] (B,)
    attention: str = "auto"
    checkpointing: str = "none"  # none | full | selective: activations that are computed anew in the backward pass

    RUN_SWITCHES = ("attention", "checkpointing")

    @property
    def is_conditional(self) -> bool:
        return self.num_classes is not None or self.mask_rate or self.guidance_scale

    @property
    def is_modulated(self) -> bool:
        """Whether the condition enters every block."""
        return self.is_conditional and self.conditioning == "adaln_zero"

    @property
    def mlp_hidden(self) -> int:
        """Hidden size of the MLP, rounded up to a multiple of 64."""
        hidden = self.width * self.mlp_ratio * (2 / 3 if self.mlp == "swiglu" else 1)
        return 64 * math.ceil(hidden / 64 - 1e-6)

    def head_of(self, span: Span) -> Head:
        """The head of a span. Raises ValueError where it cannot serve the span's codec."""
        name = self.span_heads.get(span.name, self.head)
        if name == "auto":
            name = "softmax" if span.codec.has_table else "factored"
        head = head_of(name, (self.head_rounds or None) if name == "chain" else None)
        head.check(span)
        return head

    def resolve(self) -> DiTConfig:
        """The same config with the preset's sizes filled in and every value checked (ValueError)."""
        size = preset(self.preset)
        full = replace(
            self,
            width=self.width or size.width,
            depth=self.depth or size.depth,
            heads=self.heads or size.heads,
        )
        full._check()
        return full

    def _check(self) -> None:
        if min(self.width, self.depth, self.heads) < 1:
            raise ValueError(f"width, depth and heads must be positive, got {self.width}, {self.depth}, {self.heads}")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width {self.width} / heads {self.heads} must be a multiple of 4 (rotary pairs on two axes); "
                f"set both width and heads"
            )
        if self.mlp not in MLPS:
            raise ValueError(f"unknown mlp {self.mlp!r}; there are {', '.join(MLPS)}")
        if self.digit_embedding not in DIGIT_EMBEDDINGS:
            raise ValueError(
                f"unknown digit_embedding {self.digit_embedding!r}; there are {', '.join(DIGIT_EMBEDDINGS)}"
            )
        if self.conditioning not in CONDITIONINGS:
            raise ValueError(f"unknown conditioning {self.conditioning!r}; there are {', '.join(CONDITIONINGS)}")
        if self.checkpointing not in CHECKPOINTINGS:
            raise ValueError(f"unknown checkpointing {self.checkpointing!r}; there are {', '.join(CHECKPOINTINGS)}")
        names = [self.head, *self.span_heads.values()]
        if unknown := [name for name in names if name not in ("auto", *HEADS)]:
            raise ValueError(f"unknown head {unknown[0]!r}; there are auto, {', '.join(HEADS)}")
        if self.head_rounds and "chain" not in names:
            raise ValueError(f"head_rounds={self.head_rounds} is for head=chain, not head={self.head}")
        if self.head_rounds < 0 or self.head_width < 0:
            raise ValueError(f"head_rounds and head_width must be >= 0, got {self.head_rounds} and {self.head_width}")
        if self.patch < 1:
            raise ValueError(f"patch must be positive, got {self.patch}; with 1 each token is a position of the trunk")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio must be positive, got {self.mlp_ratio}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes must be None or positive, got {self.num_classes}")
        if self.attention not in BACKENDS:
            raise ValueError(f"unknown attention {self.attention!r}; there are {', '.join(BACKENDS)}")
