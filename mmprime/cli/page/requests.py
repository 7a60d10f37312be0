"""What one can ask of a page, without the page: each request is checked against `Limits` and answered step by step.

    desk = PageRequests({"emoji_t2i": from_pretrained("assets/models/emoji_t2i")})
    for growth in desk.paint("red apple", Asked("emoji_t2i", steps=8)): ...

Every mistake is a ValueError of one sentence with the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mmprime.engine import Guidance
from mmprime.engine.samplers import SAMPLERS, Regions, sampler_of
from mmprime.generation.images import code_mask
from mmprime.generation.infilling import BLANK
from mmprime.generation.prompts import check_prompt, require_prompt
from mmprime.generation.sampling import SamplingConfig, half_known_warning, steps_of

from .growth import Growth, go_on, grow, side_by_side
from .limits import Limits
from .rules import ruled

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline

OF_MODEL = "as the model says"
PLANS = (OF_MODEL, *(name for name, kind in SAMPLERS.items() if kind is not Regions))


@dataclass(frozen=True)
class Asked:
    """How to sample: a model and a sampler by name; seed: a whole number."""

    model: str
    sampler: str = OF_MODEL
    steps: float = 16
    guidance: float = 0.0
    temperature: float = 1.0
    seed: float = 0


class PageRequests:
    """The models of a page by name, and what may be asked of them."""

    def __init__(self, pipes: Mapping[str, Pipeline], limits: Limits | None = None) -> None:
        self.pipes, self.limits = dict(pipes), limits or Limits()

    def names(self, span: str) -> list[str]:
        """The models that make pictures ("image"), or the ones that write texts alone ("text")."""
        return [name for name, pipe in self.pipes.items() if pipe.canvas.has("image") == (span == "image")]

    # ---------------------------------------------------------------- pictures

    def paint(self, prompt: str, asked: Asked) -> Iterator[Growth]:
        """A picture of a prompt, step by step."""
        pipe, config = self._sampling("image", asked)
        prompt = self._prompt(pipe, prompt)
        return grow(pipe, asked.model, lambda each: pipe.generate(prompt, 1, each), config)

    def repaint(self, image: Tensor, brushed: Tensor, rule: str, prompt: str, asked: Asked) -> Iterator[Growth]:
        """A picture (3, H, W) drawn again by a rule for the codes (h, w) that are brushed."""
        pipe, config = self._sampling("image", asked)
        self._fits(image, asked.model)
        codes, config = ruled(rule, brushed, pipe.canvas, config)
        prompt = self._prompt(pipe, prompt)
        return grow(pipe, asked.model, lambda each: pipe.inpaint(image, codes, prompt, 1, each), config)

    def resume(self, growth: Growth | None, brushed: Tensor | None, prompt: str) -> Iterator[Growth]:
        """Go on with what is paused; what is brushed is drawn again, and another prompt holds from here on."""
        if growth is None or growth.paused is None:
            raise ValueError("nothing is paused; draw, and press Pause before the picture is finished")
        pipe = self._pipe("image", growth.model)
        changed = self._prompt(pipe, prompt) if prompt.strip() != growth.prompt else None
        remask = None if brushed is None else code_mask(pipe.canvas, brushed)
        return go_on(pipe, growth, remask, changed)

    def compare(self, prompt: str, first: Asked, second: Asked) -> Iterator[tuple[Growth, Growth]]:
        """One prompt and seed by two samplers or models."""
        return side_by_side(self.paint(prompt, first), self.paint(prompt, second))

    def read_picture_file(self, file: str | Path | None, model: str) -> Tensor:
        """A file as the picture (3, H, W) that a model takes."""
        return self.limits.picture(file, self._side(model))

    def caption(self, image: Tensor, readings: float, asked: Asked) -> tuple[list[tuple[str, float]], str]:
        """Captions read from a picture with their nats, the one that fits best first; and what it cost, in words.

        As the model says, a single reading is read by its own settings; several at the temperature that is asked for.
        """
        pipe, config = self._sampling("text", asked, of="image")
        self._fits(image, asked.model)
        count = self.limits.whole(readings, self.limits.readings, "the number of readings")
        if asked.sampler == OF_MODEL:
            default = replace(pipe.config_for("text"), seed=config.seed)
            config = default if count == 1 else replace(default, temperature=config.temperature)
        texts = pipe.caption(image[None], count, config)
        nats = dict(sorted(zip(texts.texts, pipe.caption_nats(texts).tolist()), key=lambda each: -each[1]))
        best = sorted(nats.items(), key=lambda each: each[1])
        return best, f"{count} readings, {int(texts.nfe.max())} passes each, {texts.seconds:.2f} s"

    # ---------------------------------------------------------------- texts

    def fill(self, text: str, blank_tokens: float, asked: Asked) -> Iterator[Growth]:
        """A text with its gaps filled, step by step."""
        pipe, config = self._sampling("text", asked)
        text = self.limits.text(text, "text")
        if BLANK not in text:
            raise ValueError(f"the text has no gap to fill; write {BLANK} (three underscores) where words are missing")
        width = self.limits.whole(blank_tokens, self.limits.blank_tokens, "the tokens of a gap")
        return grow(pipe, asked.model, lambda each: pipe.fill_text(text, 1, width, each), config)

    # ---------------------------------------------------------------- parts

    def notes(self, asked: Asked, prompt: str | None = None) -> str | None:
        """What is odd about a request that can be answered."""
        pipe, config = self._sampling("text" if prompt is None else "image", asked)
        odd = None if prompt is None else check_prompt(prompt, pipe.card.words)
        return "; ".join(n for n in (odd, half_known_warning(config, pipe.canvas, pipe.card.trained_on)) if n) or None

    def canvas_grid(self, model: str) -> tuple[int, int]:
        """Rows and columns of codes of a picture."""
        return self._pipe("image", model).canvas.span("image").grid or (1, 1)

    def _side(self, model: str) -> int:
        tokenizer = self._pipe("image", model).image_tokenizer
        assert tokenizer is not None
        return tokenizer.image_size

    def _fits(self, image: Tensor, model: str) -> None:
        side, given = self._side(model), image.shape[-1]
        if given != side:
            raise ValueError(
                f"the picture has {given} x {given} pixels, the model {model!r} takes {side} x {side}; "
                "draw or open one with it"
            )

    def _pipe(self, span: str, model: str) -> Pipeline:
        known = self.names(span)
        if model not in known:
            kind = "pictures" if span == "image" else "texts"
            raise ValueError(
                f"no model of {kind} is called {str(model)[:40]!r}; there are {', '.join(known) or 'none'}"
            )
        return self.pipes[model]

    def _prompt(self, pipe: Pipeline, prompt: str) -> str:
        prompt = self.limits.text(prompt)
        require_prompt(prompt)
        check_prompt(prompt, pipe.card.words)
        if not pipe.holds(prompt):
            room = pipe.canvas.span("text").num_tokens - 1
            raise ValueError(f"the prompt is longer than the {room} tokens that the model reads; shorten it")
        return prompt

    def _sampling(self, span: str, asked: Asked, of: str = "") -> tuple[Pipeline, SamplingConfig]:
        """The model and how it samples a span; of: the kind of model, where it is not that of the span."""
        limits, pipe = self.limits, self._pipe(of or span, asked.model)
        steps = limits.whole(asked.steps, limits.steps, "the number of steps")
        if asked.sampler not in PLANS:
            raise ValueError(f"no sampler is called {str(asked.sampler)[:40]!r}; there are {', '.join(PLANS)}")
        default = pipe.config_for(span) if asked.sampler == OF_MODEL else SamplingConfig(sampler_of(asked.sampler))
        scale = limits.number(asked.guidance, limits.guidance, "guidance")
        config = replace(
            default,
            steps=steps if steps_of(default.sampler) is not None else None,  # type: ignore[arg-type]
            guidance=Guidance(scale, Guidance.of(default.guidance).schedule) if scale else None,
            temperature=limits.number(asked.temperature, limits.temperature, "temperature"),
            seed=limits.whole(asked.seed, 2**31 - 1, "the seed", 0),
        )
        return pipe, config
