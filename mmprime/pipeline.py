"""What a user holds: a trained model with its tokenizers, and the things one asks of it.

    pipe = from_pretrained("assets/models/emoji_t2i")
    pipe.generate("a red apple", num=4).images      pipe.caption(images).texts      pipe.inpaint(image, box).images
    pipe.continue_text("It is").texts               pipe.fill_text("the ___ of").texts     pipe.likelihood(text=[...])

Every draw has its own random stream, so a picture depends on the seed and its number, not on how many are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmprime.drawing import AT_ONCE, Draw, Paused, Pictures, Result, Texts, draw_rows, resume_rows
from mmprime.engine import MASK_ID, Canvas, generator_of, mix, nelbo
from mmprime.holes import read_partly, with_holes
from mmprime.loading import check_extras, load_tokenizers, training_words
from mmprime.rendering import partial_images
from mmprime.vocabulary import class_label

if TYPE_CHECKING:
    from mmprime.models import PrimeDiT
    from mmprime.tokenizers import ImageTokenizer, TextTokenizer

_SCORE_STREAM = 3


class Pipeline:
    """A model, its canvas and its tokenizers. `words` are those of the training captions (empty if not recorded),
    `weights` is the hash of the weights' file. `place_powers`: of the schedule it was trained under (none: one for all
    digits). `trained_on`: the laws of plans it was trained on (none: `law`). `classes`: their names (may be empty)."""

    def __init__(
        self,
        model: PrimeDiT,
        canvas: Canvas,
        text_tokenizer: TextTokenizer | None = None,
        image_tokenizer: ImageTokenizer | None = None,
        law: str = "nested",
        words: frozenset[str] = frozenset(),
        data: Path | None = None,
        weights: str = "",
        place_powers: Sequence[float] = (),
        trained_on: Sequence[str] = (),
        classes: Sequence[str] = (),
    ) -> None:
        self.model, self.canvas, self.law, self.words, self.data = model, canvas, law, words, data
        self.place_powers, self.trained_on = tuple(place_powers), tuple(trained_on) or (law,)
        self.weights, self.classes = weights, tuple(classes)
        self.text_tokenizer, self.image_tokenizer = text_tokenizer, image_tokenizer
        self.device = next(model.parameters()).device
        self._check_sizes()

    # ---------------------------------------------------------------- what one asks of it

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        num: int = 1,
        draw: Draw | None = None,
        *,
        label: int | str | None = None,
    ) -> Pictures:
        """`num` pictures of each prompt (or of a class by number or name, or of nothing at all), prompt after prompt.

        Raises ValueError on a model without images, a prompt too long for the text span, an empty prompt, and as
        `class_label` does.
        """
        self._images()
        _require_some(num)
        draw = draw or Draw(guidance=3.0 if prompt is not None or label is not None else None)
        asked = [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)
        if not asked:
            raise ValueError("no prompt is given; give at least one, or None for pictures of nothing named")
        prompts = [each for each in asked for _ in range(num)]
        if prompt is not None:
            _refuse_empty(prompts)
        known = {} if prompt is None else {"text": self.encode_captions(prompts)}
        y = self._start(len(prompts), known)
        absent = self.canvas.mask("text") if prompt is None and self.canvas.has("text") else None
        number = None if label is None else class_label(label, self.classes, self.model.config.num_classes)
        cond = None if number is None else {"label": torch.full((len(prompts),), number, device=self.device)}
        return self._pictures(self._run(y, draw, absent, cond), prompts)

    def caption(self, images: Tensor, num: int = 1, draw: Draw | None = None) -> Texts:
        """`num` captions of each of the images (B, 3, H, W), image after image. Raises ValueError without an image."""
        _require_some(num)
        if not len(images):
            raise ValueError("no image is given; give at least one")
        codes = self.encode_images(images).repeat_interleave(num, 0)
        result = self._run(self._start(len(codes), {"image": codes}), draw or Draw())
        return self._texts(result)

    @torch.no_grad()
    def caption_nats(self, found: Texts, samples: int = 8, seed: int = 0) -> Tensor:
        """How well each caption that `caption` drew fits its image: an estimate of its NELBO given it, (B,) nats."""
        generator = generator_of(mix(seed, _SCORE_STREAM))
        given = self.canvas.mask("image")
        return nelbo(self.model, self.canvas, found.y, law=self.law, given=given, samples=samples, generator=generator)

    def inpaint(
        self,
        image: Tensor,
        box: tuple[int, int, int, int],
        prompt: str | None = None,
        num: int = 1,
        draw: Draw | None = None,
    ) -> Pictures:
        """Repaint a box (x0, y0, x1, y1) of the code grid (x1, y1 excluded) of one image (3, H, W).

        Without a prompt the caption the model reads from the image guides it. Codes outside the box stay as they are,
        and so do the pixels there. Raises ValueError on a box outside the grid.
        """
        _require_some(num)
        draw = draw or Draw(guidance=3.0)
        if prompt is not None:
            _refuse_empty([prompt])
        codes = self.encode_images(image[None])
        hidden = self.canvas.mask("image", box=box)
        known, absent = {"image": codes.expand(num, -1, -1)}, None
        if prompt is not None:
            known["text"] = self.encode_captions([prompt] * num)
        elif self.canvas.has("text"):
            read = self.caption(image[None], draw=Draw(temperature=0.0))
            prompt = read.texts[0]
            if prompt:
                known["text"] = self._codes(read.y, "text").expand(num, -1)
            else:  # nothing could be read, so nothing guides
                absent, draw = self.canvas.mask("text"), replace(draw, guidance=None)
        y = self._start(num, known).masked_fill(hidden.to(self.device), MASK_ID)
        return self._pictures(self._run(y, draw, absent), [prompt or ""] * num, (image, box))

    def continue_text(
        self, prefix: str, num: int = 1, new_tokens: int | None = None, draw: Draw | None = None
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
        return self._complete([*ids, *[MASK_ID] * count], num, draw)

    def fill_text(
        self, text: str, num: int = 1, blank_tokens: int = 4, draw: Draw | None = None, rewrite: Sequence[str] = ()
    ) -> Texts:
        """Replace each `___` by `blank_tokens` tokens, and each of the words `rewrite` by as many as it has.

        Raises ValueError without a hole, or on too long a text.
        """
        return self._complete(with_holes(text, self._text(), blank_tokens, rewrite).ids, num, draw)

    def resume(
        self,
        paused: Paused,
        hide: Tensor | None = None,
        prompt: str | None = None,
        pause: int | str | None = None,
        trace: bool = False,
    ) -> Pictures | Texts:
        """Finish a run that was paused: exactly as if it had not been, or after an edit.

        hide: (N,) sub-tokens to hide and draw again; prompt: what a picture is to show from here on; pause: where to
        stop again. Raises ValueError on a prompt for a text.
        """
        y, paused = None, replace(paused, draw=replace(paused.draw, pause=pause, trace=trace))
        if prompt is not None:
            _refuse_empty([prompt])
            if not self.canvas.has("image") or not self.canvas.has("text"):
                raise ValueError("another prompt is for pictures; what a text shows already stays")
            ids = self.canvas.pack({"text": self.encode_captions([prompt])})
            y = torch.where(self.canvas.mask("text").to(ids.device), ids, paused.state["y"].to(ids.device))
        result = resume_rows(self.model, self.canvas, paused, hide, y)
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
        law: str | None = None,
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
        y0 = self._start(len(next(iter(known.values()))), known)
        visible = torch.stack([self.canvas.mask(name) for name in given]).any(0) if given else None
        generator = generator_of(mix(seed, _SCORE_STREAM))
        law = law or self.law
        return nelbo(
            self.model, self.canvas, y0, steps, law, visible, samples=samples, generator=generator, absent=y0 < 0
        )

    # ---------------------------------------------------------------- in and out

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """(B, L) ids, each caption with its end and padding. Raises ValueError on one that is too long."""
        length = self.canvas.span("text").num_tokens
        return torch.tensor([self._text().encode_padded(each, length) for each in captions], device=self.device)

    def holds(self, caption: str) -> bool:
        """Whether the text span has room for the caption and its end."""
        return len(self._text().encode(caption)) < self.canvas.span("text").num_tokens

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] of the tokenizer's size -> codes (B, h, w)."""
        return self._images().encode(images.to(self.device))

    # ---------------------------------------------------------------- parts

    def _run(
        self, y: Tensor, draw: Draw, absent: Tensor | None = None, cond: dict[str, Tensor] | None = None
    ) -> Result:
        draw = draw.of_places(self.place_powers)
        return draw_rows(self.model, self.canvas, y, self.law, draw, absent, cond)

    def _start(self, count: int, known: dict[str, Tensor]) -> Tensor:
        """(B, N) rows with the known spans visible and the others hidden."""
        if not known:
            return torch.full((count, self.canvas.num_subtokens), MASK_ID, device=self.device)
        return self.canvas.pack(known)

    def _codes(self, y: Tensor, name: str) -> Tensor:
        """(B, L) codes of a span that is wholly visible."""
        return self.canvas.span(name).codec.decode(self.canvas.view(y, name))

    def _complete(self, ids: list[int], num: int, draw: Draw | None) -> Texts:
        """Draw the tokens of ids that are -1; what the span holds beyond them stays hidden for ever."""
        _require_some(num)
        span = self.canvas.span("text")
        if len(ids) > span.num_tokens:
            raise ValueError(f"the text has {len(ids)} tokens with its blanks, the model holds {span.num_tokens}")
        row = torch.tensor(ids + [0] * (span.num_tokens - len(ids)), device=self.device)
        place = self.canvas.token_of.to(self.device)
        y = self.canvas.pack({"text": row.clamp(min=0)[None]})
        hidden = (row == MASK_ID)[place] | (place >= len(ids))
        absent = None if len(ids) == span.num_tokens else self.canvas.token_of >= len(ids)
        result = self._run(y.masked_fill(hidden, MASK_ID).expand(num, -1), draw or Draw(steps=64), absent)
        return self._texts(result, absent)

    def _pictures(
        self, result: Result, prompts: list[str], kept: tuple[Tensor, tuple[int, int, int, int]] | None = None
    ) -> Pictures:
        """kept: an image and the box outside which its pixels stay."""
        span, tokenizer = self.canvas.span("image"), self._images()
        digits = self.canvas.view(result.y, "image")
        known = (digits >= 0).all(-1)
        codes = torch.full(known.shape, MASK_ID, device=digits.device)
        codes[known] = span.codec.decode(digits[known])
        codes = codes.view(-1, *(span.grid or (1, -1)))
        if bool(known.all()):
            images = torch.cat([tokenizer.decode(part) for part in codes.split(AT_ONCE)])
        else:
            images = partial_images(result.y, self.canvas, tokenizer)
        if kept is not None:
            images = _keep_outside(images, *kept, tokenizer.downsample)
        about = dict(vars(result))
        if result.paused is not None:
            about["paused"] = replace(result.paused, prompts=tuple(prompts), kept=kept)
        return Pictures(**about, images=images, codes=codes, prompts=prompts)

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

    def _images(self) -> ImageTokenizer:
        if self.image_tokenizer is None:
            known = "its image tokenizer is missing" if self.canvas.has("image") else "this model knows no images"
            raise ValueError(known)
        return self.image_tokenizer

    def _check_sizes(self) -> None:
        for name, codes in (
            ("text", None if self.text_tokenizer is None else self.text_tokenizer.vocab_size),
            ("image", None if self.image_tokenizer is None else self.image_tokenizer.num_codes),
        ):
            if codes is not None and self.canvas.span(name).codec.num_codes != codes:
                wanted = self.canvas.span(name).codec.num_codes
                raise ValueError(
                    f"the {name} tokenizer has {codes} codes, the model {wanted}: not the one it was trained on"
                )


def _keep_outside(images: Tensor, image: Tensor, box: tuple[int, int, int, int], side: int) -> Tensor:
    """The image (3, H, W) with each of the images inside a box of codes of `side` pixels."""
    x0, y0, x1, y1 = (side * edge for edge in box)
    kept = image.to(images)[None].repeat(len(images), 1, 1, 1)
    kept[..., y0:y1, x0:x1] = images[..., y0:y1, x0:x1]
    return kept


def _require_some(count: int, name: str = "num") -> None:
    if count < 1:
        raise ValueError(f"{name}={count}: ask for at least 1")


def _refuse_empty(prompts: Sequence[str]) -> None:
    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("the prompt is empty; say what to draw")


def from_pretrained(directory: str | Path, device: torch.device | str = "cpu") -> Pipeline:
    """The model in `directory` with the tokenizers its config.json names (paths relative to the directory).

    Raises ValueError naming the file that is missing or does not fit.
    """
    from mmprime.models import load_model
    from mmprime.models.device import find_device

    directory, device = Path(directory), find_device(device)
    model, canvas, config = load_model(directory, device)
    check_extras(directory / "config.json", config)
    text, image = load_tokenizers(directory, config, canvas, device)
    data = directory / config["data"] if config.get("data") else None
    law, powers, laws = config.get("law", "nested"), config.get("place_powers", ()), config.get("trained_on", ())
    words, weights = training_words(config, data), config["weights_sha256"]
    classes = config.get("classes", ())
    return Pipeline(model, canvas, text, image, law, words, data, weights, powers, laws, classes)
