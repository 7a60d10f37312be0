"""What one asks of a trained model with its tokenizers, in tensors.

    pipe.generate("a red apple", num=4).images      pipe.caption(images).texts      pipe.inpaint(image, box).images
    pipe.continue_text("It is").texts               pipe.fill_text("the ___ of").texts     pipe.likelihood(text=[...])

Every example has its own random stream, so a picture depends on the seed and its number, not on how many are asked for.
Where no `SamplingConfig` is given, the one of the model folder holds (`pipe.sampling`, by span).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmprime.engine import MASK_ID, Canvas, Guidance, Rows, Sampler, generator_of, mix, nelbo
from mmprime.engine.guidance import NEGATIVE
from mmprime.engine.samplers.regions import guidance_scales

from .defaults import default_sampling
from .images import code_mask, keep_outside, known_images
from .infilling import read_partly, with_blanks
from .model_folder import ModelCard, check_sizes
from .prompts import class_label, require_prompt
from .sampling import Paused, Pictures, Result, SamplingConfig, Texts, random_labels, resume_rows, sample_rows

if TYPE_CHECKING:
    from mmprime.models import Network
    from mmprime.tokenizers import ImageTokenizerBase, TextTokenizer

_SCORE_STREAM = 3
Box = tuple[int, int, int, int]


class ModelRequests:
    """A model, its canvas, its tokenizers and what is known of it. Raises ValueError on tokenizers of another size."""

    def __init__(
        self,
        model: Network,
        canvas: Canvas,
        text_tokenizer: TextTokenizer | None = None,
        image_tokenizer: ImageTokenizerBase | None = None,
        card: ModelCard | None = None,
    ) -> None:
        self.model, self.canvas, self.card = model, canvas, card or ModelCard()
        self.weights = list(model.parameters())  # of the network, whatever denoiser is put around it
        self.sampling = self.card.sampling or default_sampling(canvas, self.card.masking, self.card.level_powers)
        self.text_tokenizer, self.image_tokenizer = text_tokenizer, image_tokenizer
        check_sizes(canvas, text_tokenizer, image_tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.weights[0].device

    # ---------------------------------------------------------------- what one asks of it

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        num: int = 1,
        config: SamplingConfig | None = None,
        *,
        label: int | str | None = None,
        negative: str | Sequence[str] | None = None,
    ) -> Pictures:
        """`num` pictures of each prompt (or of a class by number or name, or of nothing at all), prompt after prompt.

        negative: what guidance leads away from, one prompt or one for each (None, "": a masked text). Raises ValueError
        on a model without images, a prompt too long for the text span, an empty prompt, a negative one where nothing
        guides, and as `class_label` does. Where the classes are who drew a picture, one is drawn for each unless named.
        """
        self._images()
        _require_some(num)
        asked = [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)
        if not asked:
            raise ValueError("no prompt is given; give at least one, or None for pictures of nothing named")
        prompts = [each for each in asked for _ in range(num)]
        if config is None and prompt is None and label is None:
            config = replace(self.sampling["image"], guidance=None)  # there is nothing to guide by
        for each in asked if prompt is not None else ():
            require_prompt(each)
        known = {} if prompt is None else {"text": self.encode_captions(prompts)}
        absent = self.canvas.mask("text") if prompt is None and self.canvas.has("text") else None
        if negative and prompt is None:
            raise ValueError(f"the negative prompt {negative!r} needs a prompt beside it")
        config = self.config_for("image", config)
        cond: dict[str, Tensor] = {} if prompt is None else self._away_from(negative, len(asked), num, config)
        if label is not None:
            number = class_label(label, self.card.classes, self.model.config.num_classes)
            cond["label"] = torch.full((len(prompts),), number, device=self.device)
        elif self.card.labels:
            cond["label"] = random_labels(len(self.card.classes), config.seed, len(prompts)).to(self.device)
        result = sample_rows(self.model, self.canvas, self._start(len(prompts), known), config, absent, cond or None)
        return self._pictures(result, prompts)

    def caption(self, images: Tensor, num: int = 1, config: SamplingConfig | None = None) -> Texts:
        """`num` captions of each of the images (B, 3, H, W), image after image. Raises ValueError without an image."""
        _require_some(num)
        if not len(images):
            raise ValueError("no image is given; give at least one")
        y = self._start(len(images), {"image": self.encode_images(images)})
        return self._read(y.repeat_interleave(num, 0), config)

    @torch.no_grad()
    def caption_nats(self, captions: Texts, samples: int = 8, seed: int = 0) -> Tensor:
        """How well each caption that `caption` read fits its image: an estimate of its NELBO given it, (B,) nats."""
        generator, given = generator_of(mix(seed, _SCORE_STREAM)), self.canvas.mask("image")
        return nelbo(
            self.model, self.canvas, captions.y, None, self.card.masking, given, samples=samples, generator=generator
        )

    def inpaint(
        self,
        image: Tensor,
        box: Box | Tensor,
        prompt: str | None = None,
        num: int = 1,
        config: SamplingConfig | None = None,
        negative: str | None = None,
    ) -> Pictures:
        """Repaint a box (x0, y0, x1, y1) of the code grid (x1, y1 excluded), or codes (h, w) bool, of one (3, H, W).

        Without a prompt the caption the model reads from the image guides it, if it reads one. Codes outside the box
        stay as they are, and so do the pixels there. negative: as in `generate`. Raises ValueError on a box outside the
        grid, and on codes of which none is to be repainted.
        """
        _require_some(num)
        config, absent = self.config_for("image", config), None
        drawn = code_mask(self.canvas, box) if isinstance(box, Tensor) else self.canvas.mask("image", box=box)
        if not bool(drawn.any()):
            raise ValueError("the mask is empty: mark with white what is to be repainted")
        masked = drawn.to(self.device)
        y = self._start(1, {"image": self.encode_images(image[None])})
        if prompt is not None:
            y = self._with_caption(y, prompt)
        elif self.canvas.has("text"):
            read = self._read(y, SamplingConfig(temperature=0.0))
            prompt = read.texts[0]
            y, absent = (read.y, None) if prompt else (y, self.canvas.mask("text"))
        if not prompt:  # nothing guides
            config = replace(config, guidance=None)
        y = y.masked_fill(masked, MASK_ID).expand(num, -1)
        cond = self._away_from(negative, 1, num, config)
        result = sample_rows(self.model, self.canvas, y, config, absent, cond or None)
        return self._pictures(result, [prompt or ""] * num, (image, box))

    def continue_text(
        self, prefix: str, num: int = 1, new_tokens: int | None = None, config: SamplingConfig | None = None
    ) -> Texts:
        """`num` continuations of a prefix by `new_tokens` tokens (None: as many as the span holds).

        Raises ValueError on a prefix that fills the span, and on more new tokens than fit after it.
        """
        ids = self._text().encode(prefix)
        room = self.canvas.span("text").num_tokens - len(ids)
        if room < 1:
            raise ValueError(
                f"the prefix has {len(ids)} tokens and leaves no room in the {room + len(ids)} of the model"
            )
        count = room if new_tokens is None else new_tokens
        if not 1 <= count <= room:
            raise ValueError(
                f"{count} new tokens were asked for; the prefix has {len(ids)} of the {room + len(ids)} tokens of the "
                f"model, so 1 to {room} fit"
            )
        return self._complete([*ids, *[MASK_ID] * count], num, config)

    def fill_text(
        self,
        text: str,
        num: int = 1,
        blank_tokens: int = 4,
        config: SamplingConfig | None = None,
        rewrite: Sequence[str] = (),
    ) -> Texts:
        """Replace each `___` by `blank_tokens` tokens, and each of the words `rewrite` by as many as it has.

        Raises ValueError without a blank, or on too long a text.
        """
        return self._complete(with_blanks(text, self._text(), blank_tokens, rewrite).ids, num, config)

    def resume(
        self,
        paused: Paused,
        remask: Tensor | None = None,
        prompt: str | None = None,
        pause: int | str | None = None,
        trace: bool = False,
    ) -> Pictures | Texts:
        """Finish a run that was paused: exactly as if it had not been, or after an edit.

        remask: (N,) sub-tokens to mask and sample again; prompt: what a picture is to show from here on; pause: where
        to stop again. Raises ValueError on a prompt for a text.
        """
        y, paused = None, replace(paused, config=replace(paused.config, pause=pause, trace=trace))
        if prompt is not None:
            if not self.canvas.has("image") or not self.canvas.has("text"):
                raise ValueError("another prompt is for pictures; what a text shows already stays")
            y = self._with_caption(paused.state["y"].to(self.device), prompt)
        result = resume_rows(self.model, self.canvas, paused, remask, y)
        prompts = [prompt] * len(result.y) if prompt is not None else list(paused.prompts)
        if not self.canvas.has("image") or bool((self.canvas.view(paused.y0, "image") >= 0).all()):
            return self._texts(result, paused.absent)
        return self._pictures(result, prompts, paused.kept)

    @torch.no_grad()
    def likelihood(
        self,
        text: Sequence[str] | None = None,
        image: Tensor | None = None,
        given: Sequence[str] = (),
        steps: int | None = None,
        masking: str | None = None,
        samples: int = 1,
        seed: int = 0,
    ) -> Tensor:
        """An unbiased estimate of the NELBO of each example, (B,) nats; spans left out are marginalised.

        given: spans the others are conditioned on, e.g. ("text",). steps: None is continuous time, T is T steps.
        """
        known: dict[str, Tensor] = {} if text is None else {"text": self.encode_captions(text)}
        known |= {} if image is None else {"image": self.encode_images(image)}
        if not known or not set(given) < set(known):
            raise ValueError(f"score {sorted(known)} given {sorted(given)}: nothing is left to score")
        y = self._start(len(next(iter(known.values()))), known)
        visible = torch.stack([self.canvas.mask(name) for name in given]).any(0) if given else None
        rows = Rows.of(self.canvas, y, visible, y < 0)
        generator = generator_of(mix(seed, _SCORE_STREAM))
        return nelbo(
            self.model, self.canvas, rows, steps, masking or self.card.masking, samples=samples, generator=generator
        )

    def config_for(self, span: str, config: SamplingConfig | None = None) -> SamplingConfig:
        """How that span is sampled: as the model folder says where None, by its sampler where `config` names none.

        Raises ValueError when the canvas has no such span.
        """
        default = self.sampling[self.canvas.span(span).name]
        if config is None or isinstance(config.sampler, Sampler):
            return config or default
        return replace(config, sampler=default.sampler, steps=config.steps or default.steps)

    # ---------------------------------------------------------------- in and out

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """(B, L) ids, each caption with its end and padding. Raises ValueError on one that is too long."""
        length = self.canvas.span("text").num_tokens
        return torch.tensor([self._text().encode_padded(each, length) for each in captions], device=self.device)

    def holds(self, caption: str) -> bool:
        """Whether the text span has room for the caption and its end."""
        return len(self._text().encode(caption)) < self.canvas.span("text").num_tokens

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] of the tokenizer's size -> codes (B, h, w); digits (B, h, w, S) where there are more
        codes than integers."""
        tokenizer = self._images()
        if self.canvas.span("image").codec.has_integers:
            return tokenizer.encode(images.to(self.device))
        return tokenizer.encode_digits(images.to(self.device))

    # ---------------------------------------------------------------- parts

    def _start(self, count: int, known: dict[str, Tensor]) -> Tensor:
        """(B, N) rows with the known spans visible and the others masked."""
        if not known:
            return torch.full((count, self.canvas.num_subtokens), MASK_ID, device=self.device)
        return self.canvas.pack(known)

    def _with_caption(self, y: Tensor, caption: str) -> Tensor:
        """Rows (B, N) with another text. Raises ValueError on an empty or too long one."""
        require_prompt(caption)
        ids = self.canvas.pack({"text": self.encode_captions([caption])})
        return torch.where(self.canvas.mask("text").to(ids.device), ids, y)

    def _away_from(
        self, negative: str | Sequence[str] | None, prompts: int, num: int, config: SamplingConfig
    ) -> dict[str, Tensor]:
        """The condition that holds the text (prompts * num, N) of the unconditional branch; {} where it is masked."""
        texts = [negative or ""] * prompts if negative is None or isinstance(negative, str) else list(negative)
        if len(texts) != prompts:
            raise ValueError(f"{len(texts)} negative prompts for {prompts}; give one, or one for each prompt")
        if not any(texts):
            return {}
        if not Guidance.of(guidance_scales(self.canvas, config.regions, config.guidance)):
            raise ValueError(f"the negative prompt {texts[0]!r} needs guidance to act; give a scale (3 is a start)")
        rows = torch.full((prompts, self.canvas.num_subtokens), MASK_ID, device=self.device)
        named = torch.tensor([bool(text) for text in texts], device=self.device)
        rows[named] = self.canvas.pack({"text": self.encode_captions([text for text in texts if text])})
        return {NEGATIVE: rows.repeat_interleave(num, 0)}

    def _read(self, y: Tensor, config: SamplingConfig | None) -> Texts:
        """The captions of rows whose image is visible."""
        return self._texts(sample_rows(self.model, self.canvas, y, self.config_for("text", config)))

    def _complete(self, ids: list[int], num: int, config: SamplingConfig | None) -> Texts:
        """Sample the tokens of ids that are -1; what the span holds beyond them stays masked throughout."""
        _require_some(num)
        span = self.canvas.span("text")
        if len(ids) > span.num_tokens:
            raise ValueError(f"the text has {len(ids)} tokens with its blanks, the model holds {span.num_tokens}")
        row = torch.tensor(ids + [0] * (span.num_tokens - len(ids)), device=self.device)
        token = self.canvas.token_of.to(self.device)
        y = self.canvas.pack({"text": row.clamp(min=0)[None]})
        masked = (row == MASK_ID)[token] | (token >= len(ids))
        absent = None if len(ids) == span.num_tokens else self.canvas.token_of >= len(ids)
        y = y.masked_fill(masked, MASK_ID).expand(num, -1)
        return self._texts(sample_rows(self.model, self.canvas, y, self.config_for("text", config), absent), absent)

    def _pictures(
        self, result: Result, prompts: list[str], kept: tuple[Tensor, Box | Tensor] | None = None
    ) -> Pictures:
        """kept: an image and the box, or the codes, outside which its pixels stay."""
        tokenizer = self._images()
        images, codes = known_images(result.y, self.canvas, tokenizer)
        if kept is not None:
            images = keep_outside(images, *kept, tokenizer.downsample)
        if result.paused is not None:
            result = replace(result, paused=replace(result.paused, prompts=tuple(prompts), kept=kept))
        return Pictures(**vars(result), images=images, codes=codes, prompts=prompts)

    def _texts(self, result: Result, absent: Tensor | None = None) -> Texts:
        """The tokens of the text span that are not absent, as text."""
        span = self.canvas.span("text")
        length = span.num_tokens
        if absent is not None:
            length = int((~self.canvas.view(absent, "text").any(-1)).sum())
        rows = self.canvas.view(result.y, "text")[:, :length]
        return Texts(**vars(result), texts=[read_partly(row, span.codec, self._text()) for row in rows])

    def _text(self) -> TextTokenizer:
        if self.text_tokenizer is None:
            raise ValueError("this model knows no text" if not self.canvas.has("text") else "it has no text tokenizer")
        return self.text_tokenizer

    def _images(self) -> ImageTokenizerBase:
        if self.image_tokenizer is None:
            known = "its image tokenizer is missing" if self.canvas.has("image") else "this model knows no images"
            raise ValueError(known)
        return self.image_tokenizer


def _require_some(num: int) -> None:
    if num < 1:
        raise ValueError(f"num={num}: ask for at least 1")
