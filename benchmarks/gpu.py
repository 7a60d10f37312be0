"""Training steps and samples of the sizes B and L on a GPU: time, model FLOPs utilisation (MFU), memory, agreement.

    python benchmarks/gpu.py [--size base,large] [--paths sdpa,xformers,compile] [--batch 64]
    python benchmarks/gpu.py --device cpu --size tiny     # the same code without a GPU, a minute

Class-conditional 16 x 16 codes of 16,384 in two digits, as configs/imagenet_vq.yaml has them. A step is forward, joint
loss, backward and fused AdamW, in bf16 on a GPU and float32 on a CPU.

    MFU = FLOPs of the products of the eager step, by torch's counter / (time of a step × peak)
    peak = the fastest of square matrix products of three sizes, measured here, in the same precision

Recomputed or padded work does not count as FLOPs. Agreement is that of the loss and of its gradient with float32 on a
CPU, of two examples: for the device in float32 (without TF32) and in its own precision. The paths: sdpa and xformers
are attention kernels; compile is sdpa with each block compiled.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmprime.engine import Canvas, Codec, Rows, Span, joint_loss, sample, sampler_of
from mmprime.models import DiTConfig, PrimeDiT
from mmprime.models.attention import require_xformers
from mmprime.models.device import find_device
from mmprime.models.precision import autocast

CANVAS = Canvas([Span("image", (16, 16), Codec.base(16_384, 2))])
CLASSES = 1000
PATHS = ("sdpa", "xformers", "compile")
# attention on a CPU, which torch's counter leaves out
OF_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
}


class Job:
    """A model on a device, with seeded weights and data."""

    def __init__(self, size: str, path: str, device: torch.device, precision: str, batch: int) -> None:
        torch.manual_seed(0)
        attention = "xformers" if path == "xformers" else "sdpa"
        model = PrimeDiT(CANVAS, DiTConfig(preset=size, num_classes=CLASSES, attention=attention))
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero would hide a difference
                torch.nn.init.normal_(parameter, std=0.02)
        self.model, self.device, self.precision = model.to(device), device, precision
        if path == "compile":
            self.model.compile_blocks()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        dice = torch.Generator().manual_seed(0)
        codes = torch.randint(CANVAS.spans[0].codec.num_codes, (batch, 256), generator=dice)
        self.y = CANVAS.pack({"image": codes}).to(device)
        self.cond = {"label": torch.randint(CLASSES, (batch,), generator=dice).to(device)}

    def loss(self, seed: int = 0) -> Tensor:
        """Equal seeds have equal masks, on any device."""
        with autocast(self.precision, self.device):
            dice = torch.Generator().manual_seed(seed)
            return joint_loss(self.model, CANVAS, Rows.of(CANVAS, self.y, cond=self.cond), generator=dice).mean()

    def step(self, seed: int = 0) -> None:
        self.loss(seed).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self) -> tuple[float, Tensor]:
        """The loss, and its gradient as one vector on the CPU."""
        loss = self.loss()
        parts = torch.autograd.grad(loss, list(self.model.parameters()), allow_unused=True)
        return float(loss.detach()), torch.cat([part.float().cpu().flatten() for part in parts if part is not None])

    @torch.no_grad()
    def draw(self, steps: int) -> Tensor:
        with autocast(self.precision, self.device):
            blank = torch.full_like(self.y, -1)
            sampler = sampler_of("token_synchronous", {}, steps)
            return sample(self.model, CANVAS, sampler, blank, 0, cond=self.cond).y


def seconds(work: Callable[[int], object], device: torch.device, repeats: int) -> float:
    """Median time of a call, after two to warm up."""
    times = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        work(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def peak_flops(device: torch.device, precision: str, repeats: int) -> float:
    """FLOP/s of the fastest square matrix product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for size in (2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        best = max(best, 2 * size**3 / seconds(lambda _, a=a, b=b: a @ b, device, repeats))
    return best


def flops_of(step: Callable[[], object]) -> int:
    """FLOPs of the products of a call."""
    counter = FlopCounterMode(display=False, custom_mapping=OF_CPU)
    with counter:
        step()
    return int(counter.get_total_flops())


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32 in products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def difference(one: tuple[float, Tensor], other: tuple[float, Tensor]) -> tuple[float, float]:
    """Of the losses, and of the gradients by their norm; relative to `other`."""
    return abs(one[0] / other[0] - 1), float((one[1] - other[1]).norm() / other[1].norm())


def agreement(size: str, path: str, device: torch.device, precision: str) -> dict[str, tuple[float, float]]:
    """Differences of loss and gradient from float32 on the CPU, by precision."""
    with exact_float32():
        reference = Job(size, "sdpa", torch.device("cpu"), "fp32", 2).gradient()
        kinds = dict.fromkeys(("fp32", precision))
        return {kind: difference(Job(size, path, device, kind, 2).gradient(), reference) for kind in kinds}


def measure(size: str, path: str, options: argparse.Namespace, peak: float) -> str:
    """A row of the table."""
    device, precision = options.device, options.precision
    agreed = agreement(size, path, device, precision)
    flops = flops_of(Job(size, "sdpa", device, precision, options.batch).step)
    job = Job(size, path, device, precision, options.batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    time_of_step = seconds(job.step, device, options.repeats)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    drawn = seconds(lambda _: job.draw(options.steps), device, 1)
    differ = ", ".join(f"{kind} {loss:.0e} {gradient:.0e}" for kind, (loss, gradient) in agreed.items())
    return (
        f"| {size} | {path} | {1e3 * time_of_step:.1f} | {options.batch / time_of_step:.1f} | "
        f"{100 * flops / time_of_step / peak:.1f} % | {memory:.1f} | {options.batch / drawn:.1f} | {differ} |"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=find_device, default="auto")
    parser.add_argument("--size", default="base,large")
    parser.add_argument("--paths", default=",".join(PATHS))
    parser.add_argument("--batch", type=int, help="pictures of a step (64; 2 on a CPU)")
    parser.add_argument("--repeats", type=int, help="steps that are timed (20; 3 on a CPU)")
    parser.add_argument("--steps", type=int, default=16, help="of sampling")
    options = parser.parse_args()
    on_card = options.device.type == "cuda"
    options.precision = "bf16" if on_card else "fp32"
    options.batch = options.batch or (64 if on_card else 2)
    options.repeats = options.repeats or (20 if on_card else 3)
    return options


def main() -> None:
    options = parse()
    device = options.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = peak_flops(device, options.precision, options.repeats)
    print(f"{name}, torch {torch.__version__}, {options.precision}, batch {options.batch}, ", end="")
    print(f"peak of a product {peak / 1e12:.3g} TFLOP/s, medians of {options.repeats}; sampling: {options.steps} steps")
    print("| size | path | ms a step | pictures/s | MFU | GiB | drawn/s | loss and gradient differ from the CPU's |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for size in options.size.split(","):
        for path in options.paths.split(","):
            if path not in PATHS:
                raise SystemExit(f"--paths {path}: there are {', '.join(PATHS)}")
            try:
                if path == "xformers":
                    require_xformers(device)
                print(measure(size, path, options, peak), flush=True)
            except ValueError as error:
                print(f"| {size} | {path} | not run: {error} | | | | | |", flush=True)


if __name__ == "__main__":
    main()
