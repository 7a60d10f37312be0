"""A world small enough to know: a random joint table over a few tokens, whose entropy is a sum.

    p(x) = softmax(s · z)(x),  z ~ N(0, 1) for each of the C^L states;     H = -Σ_x p(x) ln p(x)  ≤  E_p[NELBO(x)]

Training draws x ~ p; validation prints the learned bound, averaged over *all* states with weight p, beside H.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mmprime.engine import Canvas, Codec, Span, joint_loss, nelbo
from mmprime.models import save_model
from mmprime.training.codecs import plain_codec
from mmprime.training.models import build_model
from mmprime.training.rng import generator_for
from mmprime.training.schema import CodecConfig, ToyRunConfig
from mmprime.training.task import LossTerm


class ToyTask:
    """Learn a table; see the module's head."""

    name = "toy"
    best_metric = "bound"

    def __init__(self, config: ToyRunConfig, device: torch.device | str = "cpu") -> None:
        toy = config.toy
        self.config, self.device = config, torch.device(device)
        codec: Codec = plain_codec(toy.codes, config.model.codec.get("text", CodecConfig(kind="base")))
        self.canvas = Canvas([Span("text", toy.tokens, codec)])
        logits = torch.randn(toy.codes**toy.tokens, generator=generator_for("cpu", config.run.seed, "table"))
        self.table = (toy.sharpness * logits.double()).softmax(0)
        self.states = torch.cartesian_prod(*[torch.arange(toy.codes)] * toy.tokens).reshape(-1, toy.tokens)
        self.entropy = float(-(self.table * self.table.log()).sum())
        self.modules = build_model(self.canvas, config.model).to(self.device)
        self.num_examples = len(self.table)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"model": list(self.modules.parameters())}

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Iterator[LossTerm]:
        """As many exact draws from the table as there are indices (which states they name does not matter)."""
        drawn = torch.multinomial(self.table, len(indices), replacement=True, generator=generator)
        y0 = self.canvas.pack({"text": self.states[drawn]}).to(self.device)
        goal = self.config.objective
        if goal.kind == "joint":
            nats = joint_loss(self.modules, self.canvas, y0, generator=generator, law=goal.law)
        else:
            steps = goal.steps if goal.kind == "finite" else None
            nats = nelbo(self.modules, self.canvas, y0, steps, goal.law, generator=generator)
        yield "model", nats.mean() / self.config.toy.tokens, {}

    def validate(self, generator: torch.Generator) -> dict[str, float]:
        """``bound``: Σ_x p(x) · NELBO(x) in nats, exact (every plan of every state); ``entropy``: exact."""
        y0 = self.canvas.pack({"text": self.states}).to(self.device)
        exact = nelbo.exact(self.modules, self.canvas, y0, law=self.config.objective.law)
        joint = joint_loss(self.modules, self.canvas, y0, generator=generator, law=self.config.objective.law)
        return {
            "bound": float(exact.bound.cpu() @ self.table),
            "entropy": self.entropy,
            "joint_loss": float(joint.double().cpu() @ self.table),
        }

    def report(self, metrics: dict[str, float], step: int) -> str:
        toy = self.config.toy
        start = f" (untrained; {toy.tokens} ln C = {toy.tokens * math.log(toy.codes):.4f})" if step == 0 else ""
        return (
            f"learned bound {metrics['bound']:.4f} nats{start}, exact entropy {self.entropy:.4f} nats; "
            f"joint loss (no bound) {metrics['joint_loss']:.4f}"
        )

    def conclude(self, metrics: dict[str, float]) -> str:
        if not metrics:
            return "not validated (train.validate_every=0)"
        gap = metrics["bound"] - self.entropy
        return f"learned bound {metrics['bound']:.4f} nats >= exact entropy {self.entropy:.4f} nats (gap {gap:.4f})"

    def write_samples(self, directory: Path, step: int) -> None:
        """The table itself: the likeliest states and their probability."""
        directory.mkdir(parents=True, exist_ok=True)
        top = self.table.topk(min(10, len(self.table)))
        rows = [{"state": self.states[i].tolist(), "p": p} for p, i in zip(top.values.tolist(), top.indices.tolist())]
        (directory / "table.json").write_text(json.dumps(rows, indent=1))

    def export(self, directory: Path) -> None:
        save_model(directory, self.modules, self.canvas, {"toy": True}, torch.float32)

    def fingerprint(self) -> dict[str, str]:
        return {"codec/text": self.canvas.span("text").codec.fingerprint(), "entropy": f"{self.entropy:.12f}"}
