"""What a user holds: a trained model with its tokenizers, called as pipelines of diffusers are.

    pipe = from_pretrained("assets/models/emoji_t2i")                    a folder, or a name on the hub
    pipe("red apple", num_images_per_prompt=4).images                    pictures
    pipe(image="apple.png").texts                                        captions
    pipe("a worm", image="apple.png", mask_image="mask.png").images      a part painted anew
    pipe.score("red apple", image="apple.png")                           nats
    pipe.save_pretrained("mine");  pipe.push_to_hub("user/mine")

The same in tensors, with every option of a sampler: `mmprime.generation.requests`. guidance_scale is that of diffusers,
s in ℓ_u + s (ℓ_c - ℓ_u), so 1 is off; `SamplingConfig.guidance` is s - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from mmprime.engine import Guidance, Rollout

from .hub import HubModel
from .images import to_picture
from .infilling import BLANK
from .inputs import Fit, image_batch, mask_codes
from .model_page import span_words
from .sampling import Pictures, SamplingConfig, Texts, steps_of

if TYPE_CHECKING:
    from PIL.Image import Image

Generator = torch.Generator | Sequence[torch.Generator] | None
StepEnd = Callable[[Any, int, float, dict[str, Any]], Any]


class CallOptions(TypedDict, total=False):
    """How a call is answered.

    num_images_per_prompt: pictures of each prompt, num_prompts_per_image: captions of each picture,
    num_return_sequences: texts of a text model; 1. num_inference_steps, guidance_scale: the model's own by default.
    negative_prompt: what guidance leads away from, one or one for each prompt. generator: one, or one for each output;
    torch's global one by default. callback_on_step_end(pipe, step, time, {"y", "rank"}) is called after step 0, 1, ...
    with the share of sub-tokens still masked. output_type: "pil", or "pt" for (B, 3, H, W) in [0, 1]. label: a class by
    number or name. fit: "pad" with white or "crop" what is not square. config: a `SamplingConfig` for all else.
    """

    num_images_per_prompt: int
    num_prompts_per_image: int
    num_return_sequences: int
    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str | Sequence[str] | None
    generator: Generator
    callback_on_step_end: StepEnd | None
    output_type: Literal["pil", "pt"]
    label: int | str | None
    fit: Fit
    config: SamplingConfig | None


class ScoreOptions(TypedDict, total=False):
    """As in `ModelRequests.likelihood`; fit as in `CallOptions`."""

    given: Sequence[str]
    steps: int | None
    masking: str | None
    samples: int
    seed: int
    fit: Fit


@dataclass(frozen=True)
class PipelineOutput:
    """images: PIL images or a tensor (B, 3, H, W), None of a text; texts: None of pictures; record: all that is known
    of the run (rank, nfe, seconds, codes)."""

    images: list[Image] | Tensor | None
    texts: list[str] | None
    record: Pictures | Texts


class Pipeline(HubModel):
    """A trained model that is asked by calling it; see the module's head."""

    _progress = True

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        mask_image: Any = None,
        **options: Unpack[CallOptions],
    ) -> PipelineOutput:
        """Pictures of prompts; captions of pictures (image alone); a part of a picture painted anew, where mask_image
        is white; a text continued, or filled where it has `___`, by a model of texts.

        image: a path, PIL image, array or tensor of any size, or several; see `mmprime.generation.inputs`. Raises
        ValueError on what does not go together, TypeError on an unknown option.
        """
        if unknown := sorted(set(options) - set(CallOptions.__annotations__)):
            known = ", ".join(CallOptions.__annotations__)
            raise TypeError(f"a pipeline has no option {unknown[0]!r}; there are {known}")
        if not self.canvas.has("image"):
            return self._write(prompt, image, options)
        if options.get("output_type", "pil") not in ("pil", "pt"):
            raise ValueError(f"output_type={options['output_type']!r}: there are 'pil' and 'pt'")
        if image is None and mask_image is None:
            return self._paint(prompt, options)
        if image is None:
            raise ValueError("mask_image marks a part of a picture; give image too")
        if mask_image is not None:
            return self._repaint(prompt, image, mask_image, options)
        if prompt is not None:
            raise ValueError("prompt and image: mask_image says where to paint, and pipe.score how well they fit")
        return self._caption(image, options)

    def score(
        self, prompt: str | Sequence[str] | None = None, image: Any = None, **options: Unpack[ScoreOptions]
    ) -> Tensor:
        """An unbiased estimate of the NELBO of each pair of prompt and picture, or of either alone, (B,) nats.

        given=("text",): of the picture given the prompt. One prompt goes with several pictures, one picture with
        several prompts. Other options: those of `likelihood`. Raises ValueError on numbers that do not match.
        """
        asked = {key: value for key, value in options.items() if key != "fit"}
        texts = None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        images = None if image is None else self._read_images(image, options.get("fit", "pad"))
        if texts is not None and images is not None and len(texts) != len(images):
            if 1 not in (len(texts), len(images)):
                raise ValueError(f"{len(texts)} prompts and {len(images)} pictures; give as many, or one of either")
            texts = texts * (len(images) if len(texts) == 1 else 1)
            images = images.expand(len(texts), -1, -1, -1)
        return self.likelihood(texts, images, **asked)  # type: ignore[arg-type]

    def to(self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Pipeline:
        """Move model and tokenizers; dtype: of the model's weights, tokenizers stay in float32. Returns the pipeline.

        Raises ValueError on a device this machine has not, and on a dtype that is no floating-point one.
        """
        from mmprime.models.device import find_device

        device, dtype = (None, device) if isinstance(device, torch.dtype) else (device, dtype)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype} is no floating-point type; use torch.float32, bfloat16 or float16")
        where = self.device if device is None else find_device(device)
        self.model.to(where, dtype)
        if self.image_tokenizer is not None:
            self.image_tokenizer.to(where)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return self.weights[0].dtype

    def set_progress_bar_config(self, disable: bool = False) -> None:
        """Whether calls show a bar on a terminal."""
        self._progress = not disable

    def __repr__(self) -> str:
        count = sum(weight.numel() for weight in self.weights)
        kind = str(self.dtype).removeprefix("torch.")
        lines = [f"Pipeline({self.card.name or 'unnamed'!r}: {count:,} parameters, {kind}, {self.device})"]
        for span in self.canvas.spans:
            config = self.sampling[span.name]
            sampler = getattr(config.sampler, "name", "none")
            steps = config.steps or (config.sampler and steps_of(config.sampler))  # type: ignore[arg-type]
            scale = Guidance.of(config.guidance)
            guided = f", guidance {scale}" if scale else ""
            lines.append(f"  {span.name:<6} {span_words(span)}; {sampler}, {steps} steps{guided}")
        return "\n".join(lines)

    # ---------------------------------------------------------------- parts

    def _paint(self, prompt: str | Sequence[str] | None, options: CallOptions) -> PipelineOutput:
        _only(options, "a picture of a prompt", "num_images_per_prompt", "negative_prompt", "output_type", "label")
        num, label, scale = options.get("num_images_per_prompt", 1), options.get("label"), options.get("guidance_scale")
        config = self._config("image", options, (1 if prompt is None or isinstance(prompt, str) else len(prompt)) * num)
        if prompt is None and label is None and scale is None:
            config = replace(config, guidance=None)  # there is nothing to guide by
        pictures = self.generate(prompt, num, config, label=label, negative=options.get("negative_prompt"))
        return _output(pictures, options)

    def _caption(self, image: Any, options: CallOptions) -> PipelineOutput:
        _only(options, "a caption", "num_prompts_per_image", "fit")
        num, images = options.get("num_prompts_per_image", 1), self._read_images(image, options.get("fit", "pad"))
        texts = self.caption(images, num, self._config("text", options, len(images) * num))
        return PipelineOutput(None, texts.texts, texts)

    def _repaint(
        self, prompt: str | Sequence[str] | None, image: Any, mask: Any, options: CallOptions
    ) -> PipelineOutput:
        _only(options, "a part painted anew", "num_images_per_prompt", "negative_prompt", "output_type", "fit")
        negative = options.get("negative_prompt")
        if not isinstance(prompt, str | None) or not isinstance(negative, str | None):
            raise ValueError("one picture is painted anew at a time, from one prompt and at most one negative prompt")
        num, fit, tokenizer = options.get("num_images_per_prompt", 1), options.get("fit", "pad"), self._images()
        codes = mask_codes(mask, image, tokenizer.image_size, tokenizer.grid, fit)
        config = self._config("image", options, num)
        return _output(self.inpaint(self._read_images(image, fit)[0], codes, prompt, num, config, negative), options)

    def _write(self, prompt: str | Sequence[str] | None, image: Any, options: CallOptions) -> PipelineOutput:
        _only(options, "a text", "num_return_sequences")
        if image is not None or not isinstance(prompt, str):
            raise ValueError("this model knows texts alone: give one text to continue, or with ___ to fill")
        num = options.get("num_return_sequences", 1)
        ask = self.fill_text if BLANK in prompt else self.continue_text
        texts = ask(prompt, num, config=self._config("text", options, num))
        return PipelineOutput(None, texts.texts, texts)

    def _read_images(self, image: Any, fit: Fit) -> Tensor:
        return image_batch(image, self._images().image_size, fit).to(self.device)

    def _config(self, span: str, options: CallOptions, count: int) -> SamplingConfig:
        """The sampling config of a call for `count` outputs."""
        given, scale = options.get("config"), options.get("guidance_scale")
        config = self.config_for(span, given)
        if options.get("num_inference_steps") is not None:
            config = replace(config, steps=options["num_inference_steps"])
        if scale is not None:
            if not 0 <= scale < math.inf:
                raise ValueError(f"guidance_scale={scale} must be a finite number >= 0; 1 is off")
            config = replace(config, guidance=Guidance(scale - 1, Guidance.of(config.guidance).schedule))
        if given is None or options.get("generator") is not None:
            config = replace(config, seed=seeds_of(options.get("generator"), count))
        callback = options.get("callback_on_step_end")
        on_step = config.on_step if callback is None else self._told(callback)
        return replace(config, progress=self._progress, on_step=on_step)

    def _told(self, callback: StepEnd) -> Callable[[Rollout], None]:
        def on_step(rollout: Rollout) -> None:
            time = float(rollout.masked.sum() / rollout.free.sum().clamp(min=1))
            kept = rollout.y.clone()
            answer = callback(self, rollout.number - 1, time, {"y": rollout.y, "rank": rollout.rank})
            changed = isinstance(answer, dict) and answer.get("y") is not None and not torch.equal(answer["y"], kept)
            if changed or not torch.equal(rollout.y, kept):
                raise ValueError("a callback may look at y, not change it; pause (config) and resume edit a run")

        return on_step


def from_pretrained(name: str | Path, device: torch.device | str = "cpu", **options: Any) -> Pipeline:
    """The model in a folder or of a name on the hub; see `HubModel.from_pretrained`."""
    pipe: Pipeline = Pipeline.from_pretrained(name, device=device, **options)
    return pipe


def _only(options: CallOptions, what: str, *names: str) -> None:
    """Raises ValueError on an option that says nothing about what is asked."""
    known = {*names, "num_inference_steps", "guidance_scale", "generator", "callback_on_step_end", "config"}
    for name, value in options.items():
        if name not in known and value is not None:
            raise ValueError(f"{name}={value!r} says nothing about {what}; leave it out")


def _output(result: Pictures, options: CallOptions) -> PipelineOutput:
    kind = options.get("output_type", "pil")
    images = [to_picture(image) for image in result.images] if kind == "pil" else result.images
    return PipelineOutput(images, None, result)


def seeds_of(generator: Generator, count: int) -> list[int]:
    """A seed for each of `count` outputs: drawn from one generator (None: torch's global one), or one from each.

    Raises ValueError on another number of generators.
    """
    if generator is None or isinstance(generator, torch.Generator):
        where = "cpu" if generator is None else generator.device
        return torch.randint(2**62, (count,), generator=generator, device=where).tolist()
    if len(generator) != count:
        raise ValueError(f"{len(generator)} generators for {count} outputs; give one, or one for each")
    return [int(torch.randint(2**62, (), generator=each, device=each.device)) for each in generator]
