"""A world small enough to know: a joint table over a few tokens (``toy_table``) with its entropy.

    H = -Σ_x p(x) ln p(x)  ≤  E_p[NELBO(x)]

Training draws x ~ p; validation prints the learned bounds beside H: averaged over *all* states and plans with their
chances where these are few, else estimated from samples x_i ~ p, each with one whole plan (-ln p(x), whose mean H is
known, serves as control variate).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmprime.engine import (
    Canvas,
    Codec,
    Condition,
    Masking,
    Plan,
    Rows,
    Span,
    Wrapper,
    exact_nelbo,
    joint_loss,
    masking_of,
    plan_nats,
    random_order,
    sample,
)
from mmprime.io import write_text
from mmprime.models import Network, save_model, without_adapters

from ..config import ConfigError
from ..model import build_model, plain_codec
from ..objective import Objective
from ..pretrained import read_start
from ..rng import generator_for
from ..schema import CodecConfig, ToyRunConfig
from ..task import LossTerm, Task
from .toy_table import picture_table, random_table, write_points

MOST_PLANS, MOST_ROWS = 10_000, 1 << 19  # beyond these a bound is estimated, not enumerated
CHUNK = 1 << 13  # states scored at a time
JOINT_REPEATS = 4
PICTURE_SAMPLES = 4096


class TableMean(NamedTuple):
    """Nats per example and their standard error, 0 where the value is exact."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.stderr:.4f}" if self.stderr >= 5e-5 else f"{self.value:.4f}"


class Distinct(Wrapper):
    """The same denoiser, forwarding equal rows once: of many examples few partly visible states differ."""

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        rows, index = y.unique(dim=0, return_inverse=True)
        return self.denoiser(rows, canvas, cond)[index]


class ToyTask(Task):
    """Learn a table; see the module's head.

    states (K, L) codes of positive probability, table (K,) float64 their probabilities, entropy in nats.
    Raises ConfigError on a picture that does not fit toy.tokens and toy.codes, or too many plans without toy.samples.
    """

    name = "toy"
    modules: Network
    best_metric = "bound"
    reaches_all = True

    def __init__(self, config: ToyRunConfig, device: torch.device | str = "cpu") -> None:
        toy = config.toy
        self.config, self.device = config, torch.device(device)
        codec: Codec = plain_codec(toy.codes, config.model.codec.get("text", CodecConfig(kind="base")))
        self.canvas = Canvas([Span("text", toy.tokens, codec)])
        self.states, self.table = picture_table(toy) if toy.picture else random_table(toy, config.run.seed)
        self.entropy = float(-(self.table * self.table.log()).sum())
        self.modules = build_model(self.canvas, config.model, start=read_start(config.model)).to(self.device)
        self.num_examples = len(self.table)
        self.y = self.canvas.pack({"text": self.states})
        self.objective = Objective(config.objective, self.canvas)
        if config.objective.learned_steps:
            raise ConfigError(
                f"objective.learned_steps={config.objective.learned_steps}: a toy's powers are fixed; set 0"
            )
        if config.objective.align:
            raise ConfigError(f"objective.align={config.objective.align:g}: a toy has no pictures; set 0")
        if toy.samples == 1:
            raise ConfigError("toy.samples=1: one sample has no standard error; set 0 (exact) or e.g. 4096")
        if not toy.samples and not self._enumerable(self.objective.masking, None):
            raise ConfigError(
                f"toy.samples=0 asks for exact bounds, but {self.canvas.num_subtokens} digits over {len(self.table)} "
                "states have too many plans; set e.g. toy.samples=4096 to estimate them"
            )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"model": [p for p in self.modules.parameters() if p.requires_grad]}

    def layers(self) -> list[nn.Module]:
        return list(self.modules.layers)

    def unequal_passes(self) -> str:
        return self.objective.unequal_passes(self.config.train.batch)

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Iterator[LossTerm]:
        """As many exact draws from the table as there are indices (which states they name does not matter)."""
        nats = self.objective(self.modules, self._rows(self._sample(len(indices), generator)), generator)
        yield "model", nats.mean() / self.config.toy.tokens, {}

    # ---------------------------------------------------------------- validation

    def validate(self, generator: torch.Generator) -> dict[str, float]:
        """Nats per example under the table: ``entropy``; ``bound`` in continuous time and ``bound_finite`` at
        objective.steps under objective.masking; ``bound_token_synchronous``; ``joint_loss``, which is no bound. Each
        but the entropy with its standard error under ``.._se``; ``bound_finite`` only if there is a way to have it."""
        masking, steps = self.objective.masking, self.config.objective.steps
        estimates = {"bound": self._bound(masking, None, generator)}
        if self.config.toy.samples or self._enumerable(masking, steps):
            estimates["bound_finite"] = self._bound(masking, steps, generator)
        same = masking.whole_tokens or self.canvas.num_subtokens == self.canvas.num_tokens
        whole = masking_of("token_synchronous")
        estimates["bound_token_synchronous"] = estimates["bound"] if same else self._bound(whole, None, generator)
        estimates["joint_loss"] = self._joint_loss(generator)
        metrics = {"entropy": self.entropy}
        for name, estimate in estimates.items():
            metrics |= {name: estimate.value, f"{name}_se": estimate.stderr}
        return metrics

    def _bound(self, masking: Masking, steps: int | None, generator: torch.Generator) -> TableMean:
        """Σ_x p(x) · NELBO(x): exact, or estimated with one whole plan for each draw."""
        denoiser = Distinct(self.modules)
        if self._enumerable(masking, steps):
            chunks = torch.arange(len(self.table)).split(CHUNK)

            def mean(number: int) -> float:
                exact = exact_nelbo(denoiser, self.canvas, self._rows(chunks[number]), steps, masking)
                return float(exact.bound.cpu() @ self.table[chunks[number]])

            return TableMean(sum(self.world.share(mean, len(chunks), "validation")), 0.0)

        def score(rows: Rows) -> Tensor:
            order = random_order(self.canvas, masking, len(rows), generator)
            if steps is None:
                plan = Plan.by_count(order if masking.schedule is None else order.in_time(masking.schedule))
            else:
                plan = Plan.by_time(order, masking.grid, steps)
            return plan_nats(denoiser, self.canvas, rows.y, plan)

        return self._estimate(score, generator)

    def _joint_loss(self, generator: torch.Generator) -> TableMean:
        """Over all states with one mask each if nothing is to be drawn, else from draws."""
        masking, toy = self.objective.masking, self.config.toy

        def loss(rows: Rows) -> Tensor:
            return joint_loss(self.modules, self.canvas, rows, generator=generator, masking=masking)

        if not toy.samples:
            return TableMean(float(loss(self._rows(slice(None))).double().cpu() @ self.table), 0.0)

        def score(rows: Rows) -> Tensor:
            return torch.stack([loss(rows) for _ in range(JOINT_REPEATS)]).mean(0)

        return self._estimate(score, generator)

    def _estimate(self, score: Callable[[Rows], Tensor], generator: torch.Generator) -> TableMean:
        """E_p[score(x)] from toy.samples draws: mean(s_i) + c (H - mean(h_i)), with its standard error.

        s_i = score(x_i); h_i = -ln p(x_i), whose mean H is known; c = cov(s, h) / var(h), 0 where p is uniform.
        """
        sampled = self._sample(self.config.toy.samples, generator)
        nats = torch.cat([score(self._rows(chunk)).double().cpu() for chunk in sampled.split(CHUNK)])
        known = -self.table[sampled].log()
        (_, mixed), (_, spread) = torch.stack([nats, known]).cov().tolist()
        slope = mixed / spread if spread > 0 else 0.0
        controlled = nats + slope * (self.entropy - known)
        return TableMean(float(controlled.mean()), float(controlled.std() / math.sqrt(len(controlled))))

    def _enumerable(self, masking: Masking, steps: int | None) -> bool:
        """Whether all plans of all states can be scored: few plans, and few (state, visible, revealed) triples."""
        units = self.canvas.num_tokens if masking.whole_tokens else self.canvas.num_subtokens
        plans = math.factorial(units) if steps is None else steps**units
        reveals = units * 2 ** (units - 1) if steps is None else 3**units - 2**units
        return plans <= MOST_PLANS and reveals * len(self.table) <= MOST_ROWS

    def _sample(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.multinomial(self.table, count, replacement=True, generator=generator)

    def _rows(self, index: Tensor | slice) -> Rows:
        """The rows of some states."""
        return Rows.of(self.canvas, self.y[index].to(self.device))

    # ---------------------------------------------------------------- what is told

    def report(self, metrics: dict[str, float], step: int) -> str:
        toy = self.config.toy
        start = f" (untrained; {toy.tokens} ln C = {toy.tokens * math.log(toy.codes):.4f})" if step == 0 else ""
        return (
            f"learned bound {_read(metrics, 'bound')} nats{start}, exact entropy {self.entropy:.4f} nats; "
            f"joint loss (no bound) {_read(metrics, 'joint_loss')}"
        )

    def conclude(self, metrics: dict[str, float]) -> str:
        """The learned bound beside the entropy, then the other bounds and the joint loss."""
        if not metrics:
            return "not validated (train.validate_every=0)"
        bound, goal = _read(metrics, "bound"), self.config.objective
        gap = bound.value - self.entropy
        sign = ">=" if gap >= -3 * bound.stderr - 1e-6 else "BELOW (so it is no bound!)"
        lines = [f"learned bound {bound} nats {sign} exact entropy {self.entropy:.4f} nats (gap {gap:.4f})"]
        lines.append(f"  codec, radices         {self.canvas.span('text').codec.radices}")
        lines.append(f"  continuous NELBO       {bound} nats, {goal.masking}")
        if "bound_finite" in metrics:
            lines.append(f"  T = {goal.steps:<3} NELBO          {_read(metrics, 'bound_finite')} nats, {goal.masking}")
        lines.append(f"  token-synchronous      {_read(metrics, 'bound_token_synchronous')} nats")
        lines.append(f"  joint loss (no bound)  {_read(metrics, 'joint_loss')} nats, {goal.masking}")
        return "\n".join(lines)

    def write_samples(self, directory: Path, step: int) -> None:
        """The likeliest states of the table; for a picture also PNGs of the truth and of the model's samples."""
        if not self.world.is_main:
            return
        directory.mkdir(parents=True, exist_ok=True)
        top = self.table.topk(min(10, len(self.table)))
        rows = [{"state": self.states[i].tolist(), "p": p} for p, i in zip(top.values.tolist(), top.indices.tolist())]
        write_text(directory / "table.json", json.dumps(rows, indent=1))
        if not self.config.toy.picture:
            return
        generator = generator_for("cpu", self.config.run.seed, "samples")
        plan = Plan.by_count(random_order(self.canvas, self.config.objective.masking, PICTURE_SAMPLES, generator))
        sampled = self.canvas.unpack(sample(self.modules, self.canvas, plan, generator=generator).y.cpu())["text"]
        truth, side = self.states[self._sample(PICTURE_SAMPLES, generator)], self.config.toy.codes
        write_points(directory / "truth.png", truth, side)
        write_points(directory / f"model_step{step}.png", sampled, side)

    def export(self, directory: Path) -> None:
        save_model(directory, without_adapters(self.modules), self.canvas, {"toy": True}, torch.float32)

    def fingerprint(self) -> dict[str, str]:
        content = hashlib.sha256(self.states.numpy().tobytes() + self.table.numpy().tobytes())
        return {"toy": content.hexdigest()[:16], "model.codec.text": self.canvas.span("text").codec.fingerprint()}


def _read(metrics: dict[str, float], name: str) -> TableMean:
    return TableMean(metrics[name], metrics.get(f"{name}_se", 0.0))
