"""Training examples that do not fit in memory: what a task asks of examples, read from shards as steps need it.

The numbers a step asks for are positions of an endless stream (``mmprime.data.stream_order``), not examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmprime.data import CodeDataset
from mmprime.data.codes import code_blocks
from mmprime.data.images import image_blocks
from mmprime.data.pictures import read_square
from mmprime.data.shards import split_shards
from mmprime.data.stream import Reading, Source, Stream
from mmprime.data.stream_order import StreamOrder
from mmprime.data.tokens import token_blocks
from mmprime.engine import Canvas
from mmprime.tokenizers import TextTokenizer

from .code_examples import code_examples
from .config import ConfigError, data_folder
from .examples import Examples
from .schema import DataConfig, TrainConfig

IN_MEMORY = 2**30  # bytes of examples that data.stream=auto holds in memory
HEAD = 16_384  # examples that statistics are taken from


@dataclass(frozen=True)
class StreamPlan:
    """How the examples of a run are read: its config, the index of its data, its seed."""

    config: DataConfig
    index: dict[str, Any]
    train: TrainConfig
    seed: int

    def wanted(self, bytes_each: int) -> bool:
        """Whether the training split, of so many bytes an example in memory, is streamed."""
        if self.config.stream == "auto":
            return int(self.index["splits"][self.config.train_split]) * bytes_each > IN_MEMORY
        return bool(self.config.stream)

    def open(self, source: Source[Any]) -> Stream[Any]:
        """The stream of the training split. Raises ConfigError for a buffer that holds less than two steps."""
        config, lanes, batch = self.config, self.train.accumulate, self.train.batch
        if config.buffer < 2 * lanes * batch:
            raise ConfigError(
                f"data.buffer={config.buffer} examples: a stream holds two steps at least, here "
                f"{2 * lanes * batch} (2 × train.batch={batch} × train.accumulate={lanes})"
            )
        shards = split_shards(self.index, config.train_split)
        sizes = tuple(int(entry["examples"]) for entry in shards)
        order = StreamOrder(sizes, batch, lanes, config.buffer // (2 * lanes), self.seed)
        return Stream(source, shards, order, Reading(config.workers, config.skip_shards))


def notice(plan: StreamPlan, stream: Stream[Any]) -> str:
    """What a run says of its stream before the first step."""
    order = stream.order
    return (
        f"{plan.config.train_split}: {order.num_examples:,} examples are streamed from {len(order.sizes):,} shards; "
        f"each of {order.lanes} micro-batches of a step shuffles {order.window:,} at a time"
    )


class CodeSource(Source[Examples]):
    """Code shards as packed examples."""

    canvas: Canvas | None = None

    def __init__(self, plan: StreamPlan, tokenizer: TextTokenizer | None, classes: Sequence[str]) -> None:
        self.plan, self.tokenizer, self.classes = plan, tokenizer, classes

    def blocks(self, entry: dict[str, Any]) -> Iterator[CodeDataset]:
        config = self.plan.config
        return code_blocks(data_folder(config.path), self.plan.index, entry, config.retries)

    def join(self, blocks: list[CodeDataset]) -> CodeDataset:
        return CodeDataset.join(blocks)

    def pick(self, block: CodeDataset, chosen: Tensor) -> CodeDataset:
        return block.select(chosen)

    def decode(self, block: CodeDataset) -> Examples:
        if self.tokenizer is not None and (bare := [k for k, c in zip(block.keys, block.captions) if not c.strip()]):
            raise ConfigError(
                f"{self.plan.config.path}: {bare[0]} has no caption: a stream leaves nothing out; train without text "
                "(data.text_length=0), or from memory (data.stream=false)"
            )
        if block.labels is None and self.classes:
            block = replace(block, labels=torch.full((len(block),), -1))
        return _packed(code_examples(block, self.plan.config, self.tokenizer, self.classes), self.canvas)


class TokenSource(Source[Examples]):
    """Rows of token ids as packed examples."""

    canvas: Canvas | None = None

    def __init__(self, plan: StreamPlan) -> None:
        self.plan = plan

    def blocks(self, entry: dict[str, Any]) -> Iterator[Tensor]:
        config = self.plan.config
        return token_blocks(data_folder(config.path), self.plan.index, entry, config.retries)

    def join(self, blocks: list[Tensor]) -> Tensor:
        return torch.cat(blocks)

    def pick(self, block: Tensor, chosen: Tensor) -> Tensor:
        return block[chosen]

    def decode(self, block: Tensor) -> Examples:
        return _packed(Examples({"text": block}), self.canvas)


def _packed(examples: Examples, canvas: Canvas | None) -> Examples:
    return examples if canvas is None else examples.packed(canvas)


class StreamedExamples:
    """Examples of a stream in place of :class:`Examples`; ``head`` holds the first ones of the first epoch.

    Statistics (``codes``, ``text_tokens``, :meth:`subset`) are those of the head; ``captions`` are not listed.
    """

    captions: tuple[str, ...] = ()
    alternatives = None
    labels = None

    def __init__(self, source: CodeSource | TokenSource, stream: Stream[Examples], head: Examples) -> None:
        self.source, self.stream, self.head = source, stream, head
        self.codes, self.text_tokens = head.codes, head.text_tokens

    @classmethod
    def open(
        cls, plan: StreamPlan, source: CodeSource | TokenSource, look: Callable[[Any], None] | None = None
    ) -> StreamedExamples:
        """The training split; ``look`` is given the head as it was read.

        Raises ConfigError and ValueError for what does not fit or cannot be read.
        """
        stream = plan.open(source)
        head: Any = stream.head(HEAD)
        if look is not None:
            look(head)
        return cls(source, stream, source.decode(head))

    def __len__(self) -> int:
        return self.stream.order.num_examples

    def at(self, positions: Tensor) -> Examples:
        """The examples at these positions of the stream."""
        return self.stream.batch(positions)

    def sample(self, positions: Tensor, generator: torch.Generator) -> Examples:
        """The examples at these positions, each with one of its captions, drawn by ``generator``."""
        return self.at(positions).sample(torch.arange(len(positions)), generator)

    def subset(self, count: int, seed: int) -> Examples:
        """At most ``count`` examples of the head, drawn once by ``seed``."""
        return self.head.subset(count, seed)

    def packed(self, canvas: Canvas) -> StreamedExamples:
        """The same with digits in place of codes."""
        self.source.canvas = canvas
        return StreamedExamples(self.source, self.stream, self.head.packed(canvas))


class _PictureSource(Source[Tensor]):
    """Image shards as uint8 pictures (B, 3, side, side)."""

    def __init__(self, plan: StreamPlan, side: int) -> None:
        self.plan, self.side = plan, side

    def blocks(self, entry: dict[str, Any]) -> Iterator[list[tuple[bytes, str]]]:
        return image_blocks(data_folder(self.plan.config.path), entry, self.plan.config.retries)

    def join(self, blocks: list[list[tuple[bytes, str]]]) -> list[tuple[bytes, str]]:
        return [item for block in blocks for item in block]

    def pick(self, block: list[tuple[bytes, str]], chosen: Tensor) -> list[tuple[bytes, str]]:
        return [block[i] for i in chosen.tolist()]

    def decode(self, block: list[tuple[bytes, str]]) -> Tensor:
        import numpy as np

        pictures = [np.asarray(read_square(data, self.side, name=where)) for data, where in block]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


class StreamedPictures:
    """Pictures of a stream in place of a tensor (n, 3, side, side); an index is a position of the stream."""

    def __init__(self, plan: StreamPlan, side: int) -> None:
        self.stream: Stream[Tensor] = plan.open(_PictureSource(plan, side))

    def __len__(self) -> int:
        return self.stream.order.num_examples

    def __getitem__(self, positions: Tensor) -> Tensor:
        return self.stream.batch(positions)
