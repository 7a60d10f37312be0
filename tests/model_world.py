"""A small captioned-image canvas and models that are not at their all-zero start."""

from __future__ import annotations

import torch
from torch import Tensor

from mmprime.engine import Canvas, Codec, Span
from mmprime.models import DiTConfig, PrimeDiT

TEXT, IMAGE = Codec.base(30, 2), Codec.mixed_radix((2, 3, 4))


def make_canvas(length: int = 5, grid: tuple[int, int] = (3, 4)) -> Canvas:
    return Canvas([Span("text", length, TEXT), Span("image", grid, IMAGE)])


def random_state(canvas: Canvas, batch: int = 3, masked: float = 0.5, seed: int = 0) -> Tensor:
    """y (B, N) with about that share of masked digits."""
    generator = torch.Generator().manual_seed(seed)
    codes = {
        span.name: torch.randint(span.codec.num_codes, (batch, span.num_tokens), generator=generator)
        for span in canvas.spans
    }
    y = canvas.pack(codes)
    return torch.where(torch.rand(y.shape, generator=generator) < masked, -1, y)


def make_model(canvas: Canvas, randomise: bool = True, **options: object) -> PrimeDiT:
    """A nano model with every weight random, so that nothing is hidden by a zero; or at its start."""
    torch.manual_seed(0)
    model = PrimeDiT(canvas, DiTConfig(preset="nano", **options))  # type: ignore[arg-type]
    if randomise:
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()
