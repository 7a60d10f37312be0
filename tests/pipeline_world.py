"""Untrained pipelines, small enough for tests: a nano model, a tiny image tokenizer, a byte tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mmprime.engine import Canvas, Codec, Span
from mmprime.models import DiTConfig, PrimeDiT, save_model
from mmprime.tokenizers import ImageTokenizer, ImageTokenizerConfig, TextTokenizer

CAPTIONS = ("red apple", "green apple", "blue car")
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()})
TEXT_LENGTH = 16


def tiny_image_tokenizer() -> ImageTokenizer:
    """16 codes on a 4 x 4 grid of 32-pixel images; random weights."""
    config = ImageTokenizerConfig(
        image_size=32,
        downsample=8,
        patch=4,
        widths=[8, 8],
        encoder_blocks=[0, 0],
        decoder_blocks=[0, 0],
        num_codes=16,
        code_dim=4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(config).eval()
        for name, buffer in tokenizer.named_buffers():
            if name.endswith("embed"):
                buffer.normal_()
            if name.endswith("initted"):
                buffer.fill_(True)
    return tokenizer


def seeded(canvas: Canvas) -> PrimeDiT:
    """A nano model whose weights do not depend on what ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return PrimeDiT(canvas, DiTConfig(preset="nano", depth=1))


def trained_looking(model: PrimeDiT) -> PrimeDiT:
    """The same model with random heads, so that its distributions are not uniform."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for head in model.heads.values():
            head.linear.weight.normal_(std=0.3)
    return model


def write_text_image_model(folder: Path, random_heads: bool = True) -> Path:
    """A text-image model folder with its tokenizers; returns it."""
    image, text = tiny_image_tokenizer(), TextTokenizer.bytes()
    image.save(folder / "image_tokenizer", torch.float32)
    text.save(folder / "text_tokenizer")
    spans = [Span("text", TEXT_LENGTH, Codec.base(text.vocab_size, 2)), Span("image", image.grid, Codec.base(16, 2))]
    canvas = Canvas(spans)
    model = seeded(canvas)
    extra = {
        "tokenizers": {"image": "../image_tokenizer", "text": "../text_tokenizer"},
        "masking": "nested",
        "words": WORDS,
    }
    save_model(folder / "model", trained_looking(model) if random_heads else model, canvas, extra)
    return folder / "model"


def write_text_model(folder: Path) -> Path:
    """A text model folder with a byte tokenizer; returns it."""
    text = TextTokenizer.bytes()
    text.save(folder / "text_tokenizer")
    canvas = Canvas([Span("text", 24, Codec.base(text.vocab_size, 2))])
    model = trained_looking(seeded(canvas))
    extra = {"tokenizers": {"text": "../text_tokenizer"}, "masking": "independent"}
    save_model(folder / "model", model, canvas, extra)
    return folder / "model"


def write_picture(path: Path, width: int = 32, height: int = 32, shade: int = 30) -> Path:
    """A picture of two colours."""
    from PIL import Image

    picture = Image.new("RGB", (width, height), (250, shade, 30))
    picture.paste((20, 200, 60), (0, 0, width // 2, height // 2))
    picture.save(path)
    return path


def rows_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())
