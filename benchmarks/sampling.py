"""The sampler against a plain loop in one run: time, peak memory, where the time goes, the machine's limit.

    python benchmarks/sampling.py [--quick] [--cases text,image --batches 1,16 --steps 64 --sampler ancestral]

The plain loop is the ancestral sampler of MDM-Prime (arXiv 2505.18495) as its paper describes it. A step of T: logits
of all tokens; codes that contradict a visible digit get -inf; a whole code is drawn for every token in float64; each
digit's distribution over {masked, 0, ..., b-1} is (1 - α_s) on masked and (α_s - α_t) on the drawn one; masked digits
take a draw from it, visible ones stay. No step is skipped. Its buffers are reused where they can be, its draws are
inverse CDFs (cheaper than the usual Gumbel noise), and steps cost the same, so that a few are measured for all T.

Both run the same model with random weights, T steps, one after the other in turns; medians. Ratios of one run compare;
seconds of different runs do not. Peak memory is that of a process of its own, above what it holds once the model is
loaded.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from cost import peak_resident
from torch import Tensor

from mmprime.engine import BaseDenoiser, Canvas, Codec, Condition, Span, sampler_of, stream
from mmprime.engine.rng import categorical
from mmprime.models import DiTConfig, PrimeDiT, autocast

CASES: dict[str, tuple[int, int | tuple[int, int]]] = {"text": (50_257, 512), "image": (16_384, (16, 16))}
PLAIN_STEPS = {("text", 1): 4, ("text", 16): 1, ("image", 1): 32, ("image", 16): 2}  # others: 2


@dataclass
class Metered(BaseDenoiser):
    """A denoiser that counts the seconds and floating-point operations (of matrix products) of trunk and head."""

    model: PrimeDiT
    seconds: dict[str, float] = field(default_factory=lambda: {"trunk": 0.0, "head": 0.0})
    operations: float = 0.0

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        start = time.perf_counter()
        hidden = self.model(y, canvas, cond)
        self._count(start, len(y), canvas.num_tokens, canvas.num_tokens)
        return hidden

    def hidden_at(self, y: Tensor, canvas: Canvas, cond: Condition | None, wanted: Tensor) -> Tensor:
        start = time.perf_counter()
        hidden = self.model.hidden_at(y, canvas, cond, wanted)
        self._count(start, len(y), canvas.num_tokens, int(wanted.sum(-1).max()))
        return hidden

    def _count(self, start: float, batch: int, tokens: int, leaving: int) -> None:
        """`leaving`: tokens that leave the last block; it needs keys, values and queries of all."""
        self.seconds["trunk"] += time.perf_counter() - start
        config, weights = self.model.config, sum(p.numel() for p in self.model.blocks[0].parameters())
        whole, pairs, qkv = config.depth - 1, 4 * tokens * config.width, 3 * config.width**2
        last = 2 * tokens * qkv + 2 * leaving * (weights - qkv) + leaving * pairs
        self.operations += batch * (whole * tokens * (2 * weights + pairs) + last)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        start = time.perf_counter()
        logits = self.model.logits(hidden, span)
        self.seconds["head"] += time.perf_counter() - start
        self.operations += 2 * len(hidden) * hidden.shape[-1] * span.codec.num_codes
        return logits


@torch.no_grad()
def plain(denoiser: Metered, canvas: Canvas, total: int, batch: int, steps: int) -> None:
    """The first `steps` of `total` steps of the plain loop, for a canvas of one span."""
    (span,) = canvas.spans
    codec, radix = span.codec, max(span.codec.radices)
    y = torch.full((batch, canvas.num_subtokens), codec.mask_id)
    for step in range(steps):
        masked_before, masked_after = 1 - step / total, 1 - (step + 1) / total  # 1 - α_t, 1 - α_s
        visible = canvas.view(y, span.name).flatten(0, 1)  # (M, S)
        weights = denoiser.logits(denoiser(y, canvas).flatten(0, 1), span)
        for level in range(codec.num_digits):
            clash = (visible[:, level, None] >= 0) & (visible[:, level, None] != codec.digits[:, level])
            weights.masked_fill_(clash, -torch.inf)
        weights = weights.double()
        weights.sub_(weights.amax(-1, keepdim=True)).exp_()
        torch.cumsum(weights, -1, out=weights)
        u = torch.rand(len(weights), 1, dtype=torch.float64) * weights[:, -1:]
        code = torch.searchsorted(weights, u, right=True)[:, 0].clamp(max=codec.num_codes - 1)
        probs = F.one_hot(codec.encode(code), radix + 1).double() * (masked_before - masked_after)
        probs[..., radix] = masked_after
        value = categorical(probs.flatten(0, 1), torch.rand(visible.numel(), dtype=torch.float64)).view_as(visible)
        drawn = torch.where(value == radix, codec.mask_id, value)
        y = torch.where(visible >= 0, visible, drawn).view_as(y)


def ours(denoiser: Metered, canvas: Canvas, sampler: str, total: int, batch: int, steps: int) -> int:
    """At most `steps` steps of the engine's sampler; the forward passes of the first example."""
    rollout, chosen = None, sampler_of(sampler, steps=total)
    for rollout in stream(denoiser, canvas, chosen, generator=1, plan_generator=0, batch=batch):
        if rollout.number == steps:
            break
    return 0 if rollout is None else int(rollout.nfe[0])


@dataclass
class Job:
    """What is measured in one place: a case, a batch, and the options of the command."""

    case: str
    batch: int
    options: argparse.Namespace

    def __post_init__(self) -> None:
        codes, length = CASES[self.case]
        if self.options.quick:
            codes, length = codes // 8, (length // 4 if isinstance(length, int) else (length[0] // 2, length[1] // 2))
        self.canvas = Canvas([Span(self.case, length, Codec.base(codes, self.options.digits))])
        torch.manual_seed(0)
        width, depth = self.options.width, self.options.depth
        self.model = PrimeDiT(self.canvas, DiTConfig(width=width, depth=depth, heads=max(1, width // 64))).eval()
        torch.nn.init.normal_(self.model.heads[self.case].linear.weight, std=0.02)

    def run(self, method: str, steps: int | None = None) -> tuple[float, Metered, int]:
        """Seconds of all T steps (scaled up from `steps`), the meter and the passes."""
        total, denoiser = self.options.steps, Metered(self.model)
        steps = min(steps or total, total)
        start = time.perf_counter()
        with autocast("bf16", "cpu") if method == "bf16" else nullcontext():
            if method == "plain":
                plain(denoiser, self.canvas, total, self.batch, steps)
                nfe = steps
            else:
                nfe = ours(denoiser, self.canvas, self.options.sampler, total, self.batch, steps)
        return (time.perf_counter() - start) * total / steps, denoiser, nfe

    def peak(self, method: str) -> float:
        """Peak memory in MB of a fresh process, above what it holds before the first step."""
        own = {**vars(self.options), "memory": f"{method},{self.case},{self.batch}"}
        words = [f"--{key}={value}" for key, value in own.items() if not isinstance(value, bool)]
        words += ["--quick"] if self.options.quick else []
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
        return float(done.stdout)


def memory_of(job: Job, method: str) -> None:
    """Print the growth of the peak over a few steps; run in a process of its own."""
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts again from what is held now
    before = peak_resident()
    job.run(method, 1 if method == "plain" else 4)
    print(peak_resident() - before)


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median time of `work` after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def matmul_limit(dtype: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of a product of two square matrices."""
    a = torch.randn(size, size).to(dtype)
    return 2 * size**3 / seconds(lambda: a @ a) / 1e9


def report(job: Job) -> None:
    """Measure one case and print its rows."""
    options, methods = job.options, ["plain", "mmprime", "bf16"]
    plain_steps = min(PLAIN_STEPS.get((job.case, job.batch), 2), options.steps)
    found: dict[str, list[tuple[float, Metered, int]]] = {method: [] for method in methods}
    for method in methods:
        job.run(method, 1)
    for _ in range(options.repeats):
        for method in methods:
            found[method].append(job.run(method, plain_steps if method == "plain" else None))
    base, base_peak = statistics.median(total for total, _, _ in found["plain"]), job.peak("plain")
    codec, tokens = job.canvas.spans[0].codec, job.canvas.num_tokens
    print(f"\n{job.case}: C = {codec.num_codes}, L = {tokens}, digits {codec.radices}, T = {options.steps}, ", end="")
    print(f"batch {job.batch}; plain: {plain_steps} of {options.steps} steps measured, scaled")
    print("| method | s | faster | trunk | head | drawing | GFLOP/s | NFE | peak MB | of plain |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for method in methods:
        total, meter, nfe = sorted(found[method], key=lambda each: each[0])[options.repeats // 2]
        scale = options.steps / plain_steps if method == "plain" else 1.0
        parts = [scale * meter.seconds[name] / total for name in ("trunk", "head")]
        speed, peak = scale * meter.operations / total / 1e9, base_peak if method == "plain" else job.peak(method)
        shares = " | ".join(f"{100 * part:.0f} %" for part in [*parts, 1 - sum(parts)])
        print(
            f"| {method} | {total:.2f} | {base / total:.1f} | {shares} | {speed:.0f} | {round(nfe * scale)} |", end=""
        )
        print(f" {peak:.0f} | {peak / base_peak:.2f} |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 64), ("digits", 2), ("width", 256), ("depth", 6), ("threads", 1), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cases", default="text,image")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--sampler", default="ancestral", help="what the engine runs; the plain loop stays ancestral")
    parser.add_argument("--quick", action="store_true", help="an eighth of the codes, a quarter of the tokens")
    parser.add_argument("--memory", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.memory:
        method, case, batch = options.memory.split(",")
        memory_of(Job(case, int(batch), options), method)
        return
    for dtype in (torch.float32, torch.bfloat16):
        print(f"matrix product, {str(dtype).removeprefix('torch.')}: {matmul_limit(dtype):.0f} GFLOP/s", end="; ")
    print(f"{options.threads} thread, torch {torch.__version__}, medians of {options.repeats}")
    model = Job("text", 1, options).model
    size, trunk = (sum(p.numel() for p in part.parameters()) for part in (model, model.blocks))
    print(f"DiT width {options.width}, depth {options.depth}: {trunk:,} parameters in the blocks, text model {size:,}")
    for case in options.cases.split(","):
        for batch in options.batches.split(","):
            report(Job(case, int(batch), options))


if __name__ == "__main__":
    main()
