"""What a training step of a config asks of a device, found without training: parameters, operations, memory.

A block of the trunk is traced on fake tensors, alone and after another, so that one more block is the difference. All
around the blocks (embedding, masks, head, loss) runs for real on a few random examples with a trunk of no blocks, for
which tokens reach a head is a matter of chance. Both grow with the batch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from mmprime.data import read_index
from mmprime.engine import Canvas, Codec, Rows, Span
from mmprime.models import PrimeDiT
from mmprime.models.heads import SoftmaxNet
from mmprime.models.layers import Block
from mmprime.models.precision import autocast
from mmprime.tokenizers import TextTokenizer

from .conditions import Conditions
from .config import ConfigError, data_folder, resolve, tokenizer_path
from .corpus import class_names
from .flops import embedding_flops, head_flops, trunk_flops
from .model import build_model, plain_codec
from .objective import Objective, start_objective
from .op_trace import Op, OpTrace
from .optim import muon_in_bfloat16
from .schema import CodecConfig, Config, DiffusionConfig, ToyRunConfig

AROUND, EXAMPLES = 4e9, 8  # FLOPs of the heads in one trace around the blocks, and its examples at most
HEAD_NUMBERS = 1 << 25  # numbers of a chunk of tokens in the loss, see mmprime.engine.denoiser
_NEWTON_SCHULZ = 5


@dataclass(frozen=True)
class Piece:
    """Operations at a batch, and the bytes alive at once."""

    ops: Counter[Op]
    peak: float
    batch: float  # a shorter canvas counts as part of an example


class StepCosts:
    """Of a diffusion or toy config, for its canvas and objective.

    parameters: by part, "trunk", "embedding", "head", "conditioning"; muon: shapes of what Muon trains; flops: of the
    model, one example, forward and backward; objective: the one after `objective.start_share` of the steps.

    Raises ConfigError for other tasks, fine-tuning, and where neither data nor config say how large the canvas is.
    """

    def __init__(self, config: Config, half: bool, kind: str = "cuda") -> None:
        if not isinstance(config, DiffusionConfig | ToyRunConfig):
            raise ConfigError(f"task={config.task} is not planned; mmprime train CONFIG --profile measures its steps")
        if config.model.init:
            raise ConfigError(f"model.init={config.model.init}: fine-tuning is not planned; leave it out")
        self.config, self.half = config, half
        self.canvas, self.classes = canvas_of(config)
        with torch.device("meta"):
            model = build_model(self.canvas, config.model, self.classes)
        assert isinstance(model, PrimeDiT), "without model.init"
        self.parameters, self._meta = _by_part(model), model
        self.head_numbers = max(span.num_tokens * model.head(span).size(span) for span in self.canvas.spans)
        matrices = [
            (name, p) for name, p in model.blocks.named_parameters() if p.ndim == 2 and "modulation" not in name
        ]
        self.muon = [tuple(p.shape) for _, p in matrices] if config.train.optimizer == "muon" else []
        self.muon_half = muon_in_bfloat16(kind)
        self.muon_count = sum(math.prod(shape) for shape in self.muon)
        self.tensors = sum(1 for _ in model.parameters())
        self.depth, self.options = model.config.depth, model.config
        self._blocks: dict[str, tuple[Piece, Piece]] = {}
        self.around = self._around()
        products = sum(count * op.flops for op, count in self.around.ops.items())
        length = self.canvas.num_tokens
        blocks = trunk_flops(model, 1, length) - embedding_flops(model, length)  # the latter are traced around them
        self.flops = 3 * blocks + products / self.repeats / self.around.batch

    @property
    def count(self) -> int:
        """Parameters of all parts."""
        return sum(self.parameters.values())

    def block(self, checkpointing: str) -> tuple[Piece, Piece]:
        """One block, forward and backward: what one more costs, and what a trunk of none would."""
        if checkpointing not in self._blocks:
            one, two = (self._trace_blocks(count, checkpointing) for count in (1, 2))
            more = Piece(two.ops - one.ops, two.peak - one.peak, one.batch)
            self._blocks[checkpointing] = more, Piece(one.ops - more.ops, one.peak - more.peak, one.batch)
        return self._blocks[checkpointing]

    def optimizer(self) -> Counter[Op]:
        """Clipping, AdamW or Muon, averages: bytes of float32 a weight, and products of Newton-Schulz."""
        moved = 4.0 * (13 * (self.count - self.muon_count) + 20 * self.muon_count)
        ops = Counter({Op("plain", 0.0, 0.0, moved): 1})
        for shape in self.muon:
            small, large = sorted(shape)
            flops = _NEWTON_SCHULZ * (4.0 * small**2 * large + 2.0 * small**3)
            ops[Op("product", flops, 0.0, 0.0, self.muon_half)] += 1
        return ops + Counter({Op("plain", 0.0, 0.0): 4 * self.tensors + 40 * len(self.muon)})

    def _trace_blocks(self, count: int, checkpointing: str) -> Piece:
        batch, options = self.config.train.batch, replace(self.options, depth=count, checkpointing=checkpointing)
        with FakeTensorMode():
            blocks = _Blocks(options)
            positions = self._meta.patches.coarse(self.canvas).num_tokens
            x = torch.randn(batch, positions, options.width, requires_grad=True)
            turn = torch.ones(positions, 1, options.width // options.heads // 2)
            condition = torch.randn(batch, 1, options.width, requires_grad=True) if options.is_modulated else None
            with OpTrace(blocks.parameters()) as trace:
                with self._autocast():
                    hidden = blocks._trunk(x, torch.polar(turn, turn), condition)
                hidden.backward(torch.empty_like(hidden))
                del hidden
        return Piece(trace.ops, trace.peak, batch)

    def _around(self) -> Piece:
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            canvas, shrunk = self._shorter()
            model = build_model(canvas, replace(config.model, depth=1, checkpointing="none"), self.classes)
            assert isinstance(model, PrimeDiT), "without model.init"
            model.blocks = nn.ModuleList()
            batch = min(config.train.batch, EXAMPLES)
            generator = torch.Generator().manual_seed(0)
            repeats, ops, peak = -(-EXAMPLES // batch), Counter[Op](), 0.0
            for repeat in range(repeats + 1):
                with OpTrace(model.parameters()) as trace:
                    with self._autocast():
                        loss = self._loss(model, canvas, batch, generator)
                    loss.backward()
                    del loss
                model.zero_grad(set_to_none=True)
                if repeat:  # the first fills tables
                    ops, peak = ops + trace.ops, peak + trace.peak / repeats
        self.repeats = repeats
        return Piece(ops, peak, batch * shrunk)

    def _shorter(self) -> tuple[Canvas, float]:
        """The canvas with as few tokens as a trace around the blocks can afford, and the share that this is."""
        spans, heads = self.canvas.spans, self._meta.heads
        flops = sum(
            3 * EXAMPLES * head_flops(heads[span.name], span.num_tokens, _most_asked(heads[span.name], span))
            for span in spans
        )
        parts = max(1, round(flops / AROUND))
        short = [_shortened(span, parts, self.options.patch) for span in spans]
        canvas = self.canvas if parts == 1 else Canvas(short)
        return canvas, canvas.num_tokens / self.canvas.num_tokens

    def _loss(self, model: PrimeDiT, canvas: Canvas, batch: int, generator: torch.Generator) -> Tensor:
        """Of random codes, as the task has it."""
        config = self.config
        codes = {
            span.name: torch.randint(min(span.codec.num_codes, 2**62), (batch, span.num_tokens), generator=generator)
            for span in canvas.spans
        }
        rows = Rows.of(canvas, canvas.pack(codes))
        apart = False
        if isinstance(config, DiffusionConfig):
            conditions = Conditions(canvas, config.conditions)
            mode = conditions.sample(batch, generator)
            cond = None if self.classes is None else {"label": torch.zeros(batch, dtype=torch.int64)}
            rows = Rows(rows.y, conditions.given[mode], conditions.absent[mode], cond)
            apart = config.conditions.independent_times and len(canvas.spans) > 1
        start, first = start_objective(config.objective, canvas, config.train.steps, apart)
        self.objective = Objective(config.objective, canvas, apart)
        most = first if first and 2 * start >= config.train.steps else self.objective
        return most(model, rows, generator).mean()

    def _autocast(self) -> Any:
        return autocast("bf16" if self.half else "fp32", "cpu")


def _shortened(span: Span, parts: int, patch: int) -> Span:
    """A span with a share of the tokens; in rows of whole patches, where there are any."""
    if span.grid is None or patch == 1:
        return Span(span.name, max(1, span.num_tokens // parts), span.codec)
    height, width = span.grid
    return Span(span.name, (max(1, height // patch // parts) * patch, width), span.codec)


def _most_asked(net: nn.Module, span: Span) -> int:
    return span.codec.num_codes if isinstance(net, SoftmaxNet) else span.num_tokens * span.codec.num_digits


class _Blocks(PrimeDiT):
    """The trunk alone."""

    def __init__(self, options: Any) -> None:
        nn.Module.__init__(self)
        self.config, self.final = options, None
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.depth))


def _by_part(model: PrimeDiT) -> dict[str, int]:
    parts = {"trunk": model.blocks, "embedding": model.embedders, "head": model.heads}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    sizes["embedding"] += sum(p.numel() for p in model.patches.parameters())
    return sizes | {"conditioning": sum(p.numel() for p in model.parameters()) - sum(sizes.values())}


def canvas_of(config: DiffusionConfig | ToyRunConfig) -> tuple[Canvas, int | None]:
    """Canvas and number of classes by the index of the data, or by the config where there are no data.

    Codes are digits of the right radices, not those that clustering would find. Raises ConfigError.
    """
    if isinstance(config, ToyRunConfig):
        codec = plain_codec(config.toy.codes, config.model.codec.get("text", CodecConfig(kind="base")))
        return Canvas([Span("text", config.toy.tokens, codec)]), None
    data = config.data
    index: dict[str, Any] = read_index(data_folder(data.path)) if data.path else {}
    spans: list[Span] = []
    sizes: dict[str, tuple[Any, int]] = {}
    if data.kind == "text" or data.text_length:
        if not data.text_tokenizer:
            raise ConfigError("data.text_tokenizer has no value; a text span needs one")
        sizes["text"] = data.text_length, TextTokenizer.load(tokenizer_path(data.text_tokenizer)).vocab_size
    if data.kind == "codes":
        grid, codes = index.get("grid", data.grid), index.get("num_codes", data.num_codes)
        if not grid or not codes:
            raise ConfigError("data.path has no value; plan by data.grid and data.num_codes, or name a dataset folder")
        sizes["image"] = (grid[0], grid[1]), codes
    for name, (length, codes) in sizes.items():
        digits = index.get("radices") if name == "image" else None
        default = CodecConfig(kind="product" if digits else "clustered")
        spans.append(Span(name, length, _codec(codes, config.model.codec.get(name, default), digits)))
    classes = (len(class_names(data, index) if index else ()) or data.num_classes or None) if data.labels else None
    return Canvas(spans), classes


def _codec(codes: int, config: CodecConfig, digits: list[int] | None) -> Codec:
    try:
        if config.kind == "product":
            return Codec.product(digits or [2] * (codes - 1).bit_length())
        if config.kind == "stored":
            from mmprime.codecs import load_codec

            return load_codec(resolve(config.path))[0]
        if config.kind == "clustered" and config.digits == 2 and codes >= 16:
            return Codec.mixed_radix(config.radices or (-(-codes // 8), 8), codes)
        if config.kind == "clustered" and config.radices:
            return Codec.mixed_radix(config.radices, codes)
        return plain_codec(codes, replace(config, kind="base") if config.kind == "clustered" else config)
    except ValueError as error:
        raise ConfigError(f"model.codec: {error}") from error
