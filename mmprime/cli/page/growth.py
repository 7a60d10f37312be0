"""One example as it grows: a rollout that is paused after every step, and resumed by whoever asks for more.

Left as it is, it ends in the sample of an unbroken run, bit for bit (`Pipeline.resume`), at the same number of passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmprime.generation.sampling import Paused, Pictures, SamplingConfig, Texts
from mmprime.generation.trace import trace_of

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline


@dataclass(frozen=True)
class Growth:
    """After some steps. model: its name on the page; frames: what was known after each step, an image (3, H, W) or a
    text; rank (N,): the step at which a digit was revealed, 0 given, -1 masked or absent; entropy (N,) in nats of what
    it was drawn from, NaN where none was; known: the share of what was asked that is known; passes, seconds: so far;
    paused: what to go on from, None at the end; prompt: of a picture; edited: steps before the last edit.
    """

    model: str
    frames: tuple[Tensor | str, ...]
    rank: Tensor
    entropy: Tensor
    known: float
    passes: int
    seconds: float
    paused: Paused | None
    prompt: str = ""
    edited: int = 0
    passes_edited: int = 0

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return len(self.frames)

    def picture(self, step: int = 0) -> Tensor:
        """(3, H, W) after a step from 1 on, 0: the last. Raises TypeError on a text."""
        frame = self.frames[step - 1]
        if isinstance(frame, str):
            raise TypeError(f"{frame!r} is a text, not a picture")
        return frame


def grow(
    pipe: Pipeline, model: str, ask: Callable[[SamplingConfig], Pictures | Texts], config: SamplingConfig
) -> Iterator[Growth]:
    """The growths of one example after step 1, 2, ...; ask: a request of the pipeline for one example."""
    result = ask(replace(config, pause=1, trace=True))
    start = torch.full(result.y[0].shape, -1)
    growth = Growth(model, (), start, start.double() * torch.nan, 0.0, 0, 0.0, None)
    yield (growth := _then(growth, result, pipe))
    if growth.paused is not None:
        yield from go_on(pipe, growth)


def go_on(pipe: Pipeline, growth: Growth, remask: Tensor | None = None, prompt: str | None = None) -> Iterator[Growth]:
    """The growths that follow a paused one; as it is, or with the sub-tokens `remask` (N,) masked again and another
    prompt, over the steps that are left. Raises ValueError on one that is finished."""
    if growth.paused is None:
        raise ValueError("nothing is paused; draw, and press Pause before the picture is finished")
    if remask is not None or prompt is not None:
        growth = replace(growth, edited=growth.steps, passes_edited=growth.passes)
    while growth.paused is not None:
        step = growth.steps - growth.edited + 1
        result = pipe.resume(growth.paused, remask, prompt, pause=step, trace=True)
        remask = prompt = None
        yield (growth := _then(growth, result, pipe))


def side_by_side(first: Iterator[Growth], second: Iterator[Growth]) -> Iterator[tuple[Growth, Growth]]:
    """Two examples step by step; the one that ends first stands still."""
    latest: tuple[Growth, Growth] | None = None
    for a, b in zip_longest(first, second):
        latest = (a or latest[0], b or latest[1]) if latest else (a, b)
        yield latest


def _then(growth: Growth, result: Pictures | Texts, pipe: Pipeline) -> Growth:
    """One step further. An edit begins a rollout of its own, whose ranks and passes count from 0."""
    y, rank = result.y[0], result.rank[0]
    revealed = (y >= 0) & (rank > 0)
    kept = torch.where(y >= 0, growth.rank.clamp(min=0), -1)
    free = rank != -1
    pictures = isinstance(result, Pictures)
    span = pipe.canvas.mask("image" if pictures else "text").to(y.device)
    return replace(
        growth,
        frames=(*growth.frames, result.images[0] if isinstance(result, Pictures) else result.texts[0]),
        rank=torch.where(revealed, rank + growth.edited, kept),
        entropy=torch.where(revealed, trace_of(result).entropy[0], growth.entropy.masked_fill(y < 0, torch.nan)),
        known=float((y >= 0)[free & span].double().mean()),
        passes=growth.passes_edited + int(result.nfe[0]),
        seconds=growth.seconds + result.seconds,
        paused=result.paused,
        prompt=result.prompts[0] if isinstance(result, Pictures) else growth.prompt,
    )
