"""Samples as files: a sheet of drawn images with their captions, a text file of written ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmprime.engine import Plan, sample

from .config import resolve
from .examples import Examples
from .rng import derive_seed

if TYPE_CHECKING:
    from .tasks.diffusion import DiffusionTask

CAPTION_HEIGHT = 14
PLANS: dict[str, Callable[..., Plan]] = {
    "nested": Plan.nested,
    "independent": Plan.first_hitting,
    "token_synchronous": Plan.token_synchronous,
    "coarse_first": Plan.ordered,
}


def write_samples(task: DiffusionTask, directory: Path, step: int) -> None:
    """``step_N.png`` (images drawn from the captions or labels of held-out examples) and ``step_N.txt``."""
    directory.mkdir(parents=True, exist_ok=True)
    examples = next(iter(task.corpus.validation.values()), task.corpus.train)
    examples = examples.subset(task.config.samples.count, task.config.run.seed + 1)
    stem = directory / f"step_{step:08d}"
    if task.canvas.has("image"):
        codes = draw(task, examples, "image")
        _write_images(task, codes, examples, stem)
    if task.canvas.has("text") and task.corpus.text_tokenizer is not None:
        ids = draw(task, examples, "text")
        _write_text(task, ids, examples, stem.with_suffix(".txt"))


def draw(task: DiffusionTask, examples: Examples, name: str) -> Tensor:
    """Codes (n, L) of the span ``name``, sampled with the other spans given as they are in ``examples``."""
    canvas, settings = task.canvas, task.config.samples
    y0, cond = task._batch(examples, torch.arange(len(examples)))
    free = canvas.mask(name).to(y0.device)
    given = torch.where(free, torch.full_like(y0, -1), y0)
    steps = min(settings.steps, int(free.sum()))
    seed = derive_seed(task.config.run.seed, "samples", name)
    timing = {} if task.schedule is None else {"schedule": task.schedule}
    plan = PLANS[task.config.objective.law](canvas, len(y0), seed, given=~free.cpu(), steps=steps, **timing)
    guidable = cond is not None or len(canvas.spans) > 1
    drawn = sample(
        task.modules,
        canvas,
        plan,
        given=given,
        guidance=settings.guidance or None if guidable else None,
        temperature=settings.temperature,
        generator=seed,
        cond=cond,
    )
    return canvas.unpack(drawn.y)[name].cpu()


def _write_images(task: DiffusionTask, codes: Tensor, examples: Examples, stem: Path) -> None:
    grid = task.canvas.span("image").grid
    assert grid is not None
    codes = codes.unflatten(1, grid)
    if not task.config.data.image_tokenizer:
        save_file({"codes": codes.contiguous()}, stem.with_suffix(".safetensors"))
        return
    from mmprime.tokenizers import ImageTokenizer

    tokenizer = ImageTokenizer.load(resolve(task.config.data.image_tokenizer)).eval()
    names = examples.captions
    if examples.labels is not None:
        classes = [*task.corpus.classes, "no class"]
        names = [classes[label] for label in examples.labels.tolist()]
    write_sheet(tokenizer.decode(codes), names, stem.with_suffix(".png"))


def write_sheet(images: Tensor, captions: list[str], path: Path, scale: int = 2) -> None:
    """Images (n, 3, H, W) in [0, 1] on a nearly square sheet, each above its caption."""
    from PIL import Image, ImageDraw

    count, _, height, width = images.shape
    columns = max(1, round(count**0.5))
    cell_w, cell_h = width * scale + 4, height * scale + CAPTION_HEIGHT + 4
    sheet = Image.new("RGB", (columns * cell_w, -(-count // columns) * cell_h), "white")
    pen = ImageDraw.Draw(sheet)
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for number in range(count):
        left, top = number % columns * cell_w, number // columns * cell_h
        picture = Image.fromarray(pixels[number]).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        sheet.paste(picture, (left + 2, top + 2))
        if number < len(captions):
            pen.text((left + 2, top + height * scale + 2), captions[number][: width * scale // 6], fill="black")
    sheet.save(path)


def _write_text(task: DiffusionTask, ids: Tensor, examples: Examples, path: Path) -> None:
    tokenizer = task.corpus.text_tokenizer
    assert tokenizer is not None
    written = [tokenizer.decode(row) for row in ids.tolist()]
    truth = examples.captions or [""] * len(written)
    lines = [f"{text}" + (f"    (truth: {real})" if real else "") for text, real in zip(written, truth)]
    path.write_text("\n\n".join(lines) + "\n")
