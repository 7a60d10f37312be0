"""Attention back ends side by side in one run: milliseconds and the ratio to sdpa, forward and forward + backward.

    python benchmarks/attention.py [--batch 64 --length 76 --heads 4 --head-dim 64 --device cpu]

Ratios of one run compare; milliseconds of different runs do not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mmprime.models.attention import attention


def milliseconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of `work`, after two calls to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def measure(backend: str, shape: tuple[int, ...], device: str, repeats: int) -> tuple[float, float]:
    """(forward, forward + backward) in milliseconds."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3))

    def forward() -> Tensor:
        return attention(q, k, v, backend)

    def both() -> None:
        inputs = [t.requires_grad_() for t in (q, k, v)]
        torch.autograd.grad(forward().sum(), inputs)

    return milliseconds(forward, device, repeats), milliseconds(both, device, repeats)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 64), ("length", 76), ("heads", 4), ("head-dim", 64), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    options = parse()
    shape = (options.batch, options.length, options.heads, options.head_dim)
    names = ["sdpa", "reference"] + (["xformers"] if options.device == "cuda" else [])
    print(f"(B, L, H, Dh) = {shape}, {options.device}")
    print(f"{'back end':12s}{'forward ms':>12s}{'ratio':>8s}{'fwd+bwd ms':>12s}{'ratio':>8s}")
    base: tuple[float, float] | None = None
    for name in names:
        forward, both = measure(name, shape, options.device, options.repeats)
        base = base or (forward, both)
        print(f"{name:12s}{forward:12.2f}{forward / base[0]:8.2f}{both:12.2f}{both / base[1]:8.2f}")


if __name__ == "__main__":
    main()
