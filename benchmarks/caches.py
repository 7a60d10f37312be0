"""What the approximate caches cost and gain: time against error, on a trained model, in one rollout.

    python benchmarks/caches.py [--model assets/models/sotu --batch 8 --steps 64 --blocks 16 --repeats 3]

Each row is the same request, the same random numbers, another cache. At every step of the cached run the exact model
looks at the same state, and the distributions of the tokens that are revealed at that step are compared: total
variation and KL from the exact one to the cached one, mean over all these tokens, and how often both have the same
likeliest code.
"same tokens" are those that come out as without a cache; two runs with other random numbers have the last row's share
in common. NELBO is the exact model's of the texts (token-synchronous, continuous): lower is not better, equal is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from cached_dit import CachedDiT
from torch import Tensor

from mmprime.engine import BaseDenoiser, Canvas, Condition, Rollout, Span, begin, nelbo, sampler_of
from mmprime.engine.heads import Tokens
from mmprime.generation.pipeline import from_pretrained
from mmprime.models import PrimeDiT


@dataclass
class Witness(BaseDenoiser):
    """A cached denoiser that keeps what it was asked last, for the exact model to be asked the same."""

    cached: CachedDiT
    last: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        return self.cached(y, canvas, cond)

    def hidden_at(self, y: Tensor, canvas: Canvas, cond: Condition, wanted: Tensor) -> Tensor:
        hidden = self.cached.hidden_at(y, canvas, cond, wanted)
        self.last = {"y": y, "row": cond["cache_row"], "hidden": hidden}
        return hidden

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return self.cached.logits(hidden, span)


@dataclass
class Bench:
    """A model, its canvas of one span, and the options."""

    model: PrimeDiT
    canvas: Canvas
    options: argparse.Namespace

    def rollout(self, name: str, cached: CachedDiT | None, seed: int, witness: bool = False) -> Rollout:
        """A rollout before its first step."""
        denoiser: Any = cached or self.model
        batch = self.options.batch
        cond = None if cached is None else cached.condition(batch)
        if witness and cached is not None:
            denoiser = Witness(cached)
        sampler = sampler_of(name, {"size": self.options.blocks} if name == "blocks" else {}, self.options.steps)
        return begin(
            denoiser, self.canvas, sampler, generator=seed, plan_generator=self.options.seed, batch=batch, cond=cond
        )

    def seconds(self, sampler: str, cached: CachedDiT | None) -> tuple[float, Rollout]:
        rollout = self.rollout(sampler, cached, self.options.seed)
        start = time.perf_counter()
        while rollout.step():
            pass
        return time.perf_counter() - start, rollout

    def errors(self, sampler: str, cached: CachedDiT) -> tuple[float, float, float]:
        """Mean total variation, mean KL in nats, share of equal likeliest codes, over the tokens revealed."""
        rollout = self.rollout(sampler, cached, self.options.seed, witness=True)
        found = []
        while rollout.step():
            found.append(self._compare(rollout, rollout.denoiser.last))  # type: ignore[attr-defined]
        distance, divergence, same = torch.cat(found, 1).mean(1).tolist()
        return distance, divergence, same

    @torch.no_grad()
    def _compare(self, rollout: Rollout, last: dict[str, Tensor]) -> Tensor:
        """(3, tokens revealed at this step)."""
        (span,) = self.canvas.spans
        now = self.canvas.view(rollout.rank == rollout.number, span.name)[last["row"]].any(-1)
        visible, index = self.canvas.view(last["y"], span.name)[now], now.nonzero()[:, 1]
        exact = self.model(last["y"], self.canvas)
        p, q = (
            _distribution(self.model, Tokens(span, hidden[now], visible, index)) for hidden in (exact, last["hidden"])
        )
        gap = torch.where(p.exp() > 0, p - q, 0.0)
        return torch.stack(
            [
                (p.exp() - q.exp()).abs().sum(-1) / 2,
                (p.exp() * gap).sum(-1),
                (p.argmax(-1) == q.argmax(-1)).double(),
            ]
        )

    def bound(self, rollout: Rollout) -> tuple[float, float]:
        """The exact model's NELBO of what was sampled: nats a token, and its standard error over the texts."""
        with torch.no_grad():
            nats = nelbo(
                self.model,
                self.canvas,
                rollout.y,
                masking="token_synchronous",
                samples=8,
                generator=torch.Generator().manual_seed(1),
            )
        nats = nats / self.canvas.num_tokens
        return float(nats.mean()), float(nats.std()) / len(nats) ** 0.5


def _distribution(model: BaseDenoiser, tokens: Tokens) -> Tensor:
    """log p (m, C) float64 of the codes that agree with the visible digits."""
    codec = tokens.span.codec.agreement(tokens.hidden.device)
    logits = model.logits(tokens.hidden, tokens.span).double()
    logits = logits if codec.order is None else logits[:, codec.order]
    return logits.masked_fill(~codec.agree(codec.key, tokens.visible), -torch.inf).log_softmax(-1)


def table(bench: Bench, sampler: str, caches: dict[str, dict[str, Any]]) -> None:
    """Print the rows of one sampler."""
    built = {name: CachedDiT(bench.model, **options) for name, options in caches.items()}
    times: dict[str, list[float]] = {name: [] for name in ["none", *built]}
    runs: dict[str, Rollout] = {}
    for _ in range(bench.options.repeats):
        for name in times:
            spent, runs[name] = bench.seconds(sampler, built.get(name))
            times[name].append(spent)
    base = statistics.median(times["none"])
    print(f"\n{sampler}, batch {bench.options.batch}, L = {bench.canvas.num_tokens}, NFE {int(runs['none'].nfe[0])}")
    print("| cache | s | faster | trunk tokens | total variation | KL, nats | likeliest same | same tokens | NELBO |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, spent in times.items():
        cached, middle = built.get(name), statistics.median(spent)
        share = 1.0 if cached is None else cached.share
        distance, divergence, best = (0.0, 0.0, 1.0) if cached is None else bench.errors(sampler, cached)
        equal = float((runs[name].y == runs["none"].y).double().mean())
        nats, error = bench.bound(runs[name])
        print(f"| {name} | {middle:.2f} | {base / middle:.2f} | {100 * share:.0f} % | {distance:.4f} ", end="")
        print(f"| {divergence:.4f} | {100 * best:.1f} % | {100 * equal:.0f} % | {nats:.3f} ± {error:.3f} |", flush=True)
    other = bench.rollout(sampler, None, bench.options.seed + 1)
    while other.step():
        pass
    equal = float((other.y == runs["none"].y).double().mean())
    print(f"| none, other random numbers | | | | | | | {100 * equal:.0f} % | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/models/sotu", help="a model with one span")
    for name, default in (("batch", 8), ("steps", 64), ("blocks", 16), ("threads", 1), ("repeats", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = from_pretrained(options.model)
    bench = Bench(pipe.model, pipe.canvas, options)
    table(bench, "nested", {f"refresh {steps}": {"refresh": steps} for steps in (1, 2, 4, 8)})
    blocks = {"refresh 1": {"refresh": 1}}
    for name, more in (("dual", {}), ("prefix", {"prefix": True})):
        for refresh in (None, 8):
            blocks[f"{name}{f', refresh {refresh}' if refresh else ''}"] = {
                "block": options.blocks, "refresh": refresh, **more
            }  # fmt: skip
    table(bench, "blocks", blocks)


if __name__ == "__main__":
    main()
