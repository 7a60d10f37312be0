"""Halton-MaskGIT's sampling loops beside this package's (valeoai/Halton-MaskGIT; Besnier et al., arXiv 2503.17076).

Their `Sampler/halton_sampler.py`, `Sampler/confidence_sampler.py` and `Network/transformer.py` are imported from the
checkout and run unchanged, on a CPU in float32, the transformer with random weights, no dropout and their defaults for
the rest (a register token, tied embedding, 1,000 classes). Of their trainer, which sets up a GPU, data and logs, stand
the six attributes that the samplers read; its decoder gives back the codes, for here nothing is decoded either. This
package: the samplers "halton" and "confidence", a model of the same width, depth, heads and MLP, one digit a token as
theirs and more; as many passes, float32 or by --precision. Guidance is constant in the Halton sampler and grows
linearly in the other, on both sides. Seconds are those of a picture: of a batch, divided by it.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from cost import Case
from torch import Tensor

from mmprime.engine import Canvas, Codec, Guidance, Sample, Sampler, Schedule, Span, sample
from mmprime.engine.samplers import Confidence, Halton
from mmprime.models import DiTConfig, PrimeDiT, autocast

MARK = "Sampler/halton_sampler.py"
DEFAULTS = {"codes": 16_384, "length": 256, "batch": 4, "width": 384, "depth": 6, "sampling_steps": 32}
COLUMNS = ("sampler", "digits", "guidance")
CLASSES = 1000


class Peer:
    """Their transformer, and what of their trainer the samplers read."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        sys.path.insert(0, str(folder))
        torch.manual_seed(0)
        self.side, self.labels = math.isqrt(options.length), labels(options)
        vit = importlib.import_module("Network.transformer").Transformer(
            input_size=self.side, hidden_dim=options.width, codebook_size=options.codes, depth=options.depth,
            heads=options.width // 64, mlp_dim=4 * options.width, nclass=CLASSES,
        )  # fmt: skip
        self.trainer = SimpleNamespace(
            vit=vit,
            ae=SimpleNamespace(decode_code=lambda codes: codes),
            input_size=self.side,
            autocast=nullcontext(),
            args=SimpleNamespace(device="cpu", use_ema=False, mask_value=options.codes, codebook_size=options.codes),
        )

    def sampler(self, name: str, steps: int, guidance: float) -> Any:
        """Theirs of that name with their defaults, "halton" or "confidence"."""
        module = importlib.import_module(f"Sampler.{name}_sampler")
        return getattr(module, f"{name.capitalize()}Sampler")(step=steps, w=guidance)

    def sample(self, sampler: Any) -> None:
        sampler(self.trainer, nb_sample=len(self.labels), labels=self.labels, verbose=False)


class Ours:
    """This package's model of the same size."""

    def __init__(self, options: argparse.Namespace, digits: int) -> None:
        torch.manual_seed(0)
        side = math.isqrt(options.length)
        self.canvas = Canvas([Span("image", (side, side), Codec.base(options.codes, digits))])
        size = DiTConfig(width=options.width, depth=options.depth, heads=options.width // 64, num_classes=CLASSES)
        self.model = PrimeDiT(self.canvas, size).eval()
        torch.nn.init.normal_(self.model.heads["image"].get_parameter("linear.weight"), std=0.02)
        self.labels, self.precision = labels(options), options.precision

    def sampler(self, name: str, steps: int) -> Sampler:
        """Few tokens at first, as theirs; by tokens where theirs looks at tokens."""
        pace = Schedule.cosine()
        return Halton(steps, pace) if name == "halton" else Confidence(steps, pace, unit="token")

    def sample(self, sampler: Sampler, guidance: Guidance) -> Sample:
        batch, cond = len(self.labels), {"label": self.labels}
        with autocast(self.precision, "cpu"):
            return sample(self.model, self.canvas, sampler, batch=batch, cond=cond, guidance=guidance, generator=1)


def labels(options: argparse.Namespace) -> Tensor:
    """A class for each picture of the batch."""
    return torch.randint(CLASSES, (options.batch,), generator=torch.Generator().manual_seed(0))


def check(options: argparse.Namespace) -> None:
    """Raises ValueError on a length that is no square, and on as many steps as cannot each reveal a token."""
    if math.isqrt(options.length) ** 2 != options.length:
        raise ValueError(f"--length {options.length} must be a square: their grids are")
    if not 2 <= options.sampling_steps <= options.length:
        raise ValueError(f"--sampling-steps {options.sampling_steps} must lie between 2 and --length {options.length}")


def cases(folder: Path, options: argparse.Namespace) -> Iterator[Case]:
    """What is compared: a batch drawn by each sampler, guided and not."""
    peer, steps = Peer(folder, options), options.sampling_steps
    for name, schedule in (("halton", "constant"), ("confidence", "linear")):
        for scale in options.guidance:
            theirs = peer.sampler(name, steps, scale)
            for digits in options.digits:
                ours = Ours(options, digits)
                yield Case(
                    (name, str(digits), f"{scale:g}"),
                    partial(peer.sample, theirs),
                    partial(ours.sample, ours.sampler(name, steps), Guidance(scale, schedule)),
                    options.repeats,
                    options.batch,
                )
