"""What a head costs: seconds and memory of one training pass and one draw, for code books of 2^14 to 2^36.

    python benchmarks/heads.py [--width 256 --tokens 256 --repeats 5 --threads 1]        # 1 to 2 minutes of one core

The head alone, without a trunk: `tokens` tokens, all their digits masked, hidden states of `width` numbers. Training:
-log p of the right codes and its gradients. Sampling: one code for each token. Each row runs in a process of its own;
memory is the growth of its largest resident set: parameters, gradients and all that is computed, no optimizer. Times
are the least of the repeats, after one that is not counted; ratios are to one softmax over 2^18 codes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmprime.engine import BaseDenoiser, Codec, DigitQuery, Head, Span, head_of
from mmprime.engine.denoiser import chunks
from mmprime.engine.heads.base import Request, Tokens
from mmprime.evaluation.metric import markdown
from mmprime.models.heads import ChainNet, FactoredNet, SoftmaxNet

CASES = {  # head, radices; the first of 2^18 is what ratios are to
    "softmax, 2^14": ("softmax", [2**14]),
    "softmax, 2^18": ("softmax", [2**18]),
    "factored, 18 bits": ("factored", [2] * 18),
    "factored, 6 levels of 8": ("factored", [8] * 6),
    "chain, 6 levels of 8": ("chain", [8] * 6),
    "chain, 18 bits": ("chain", [2] * 18),
    "factored, 2^36: 12 levels of 8": ("factored", [8] * 12),
    "chain, 2^36: 12 levels of 8": ("chain", [8] * 12),
}
REFERENCE = "softmax, 2^18"


class HeadAlone(BaseDenoiser):
    """A network behind a head, without a trunk."""

    def __init__(self, name: str, codec: Codec, width: int) -> None:
        nets: dict[str, Callable[[], nn.Module]] = {
            "softmax": lambda: SoftmaxNet(width, codec),
            "factored": lambda: FactoredNet(width, codec),
            "chain": lambda: ChainNet(width, codec, width // 2),
        }
        self.net, self._head = nets[name](), head_of(name)

    def head(self, span: Span) -> Head:
        return self._head

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return self.net(hidden)

    def digit_logits(self, hidden: Tensor, span: Span, query: DigitQuery) -> Tensor:
        return self.net(hidden, query)


def measure(case: str, width: int, count: int, repeats: int) -> dict[str, float]:
    """Parameters, seconds and bytes of one case."""
    name, radices = CASES[case]
    codec = Codec.product(radices) if len(radices) > 1 else Codec.base(radices[0], 1)
    span = Span("image", count, codec)
    before = _peak()
    network = HeadAlone(name, codec, width)
    hidden = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    right = torch.stack([torch.randint(radix, (count,)) for radix in radices], -1)
    u = torch.rand(count, network.head(span).num_uniforms(span), dtype=torch.float64)
    masked = Tokens(span, hidden, torch.full_like(right, -1), torch.arange(count))
    for parameter in network.net.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def train() -> None:
        states = hidden.clone().requires_grad_()
        tokens = Tokens(span, states, masked.visible, masked.index)
        network.head(span).nats(network, tokens, right[None]).sum().backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def draw() -> None:
        for part in chunks(count, network.head(span).size(span)):
            request = Request(torch.ones_like(right[part], dtype=torch.bool), u[part])
            network.head(span).sample(network, masked[part], request)

    draw_seconds = _least(draw, repeats)
    draw_bytes = _peak() - before
    train_seconds = _least(train, repeats)
    size = sum(parameter.numel() for parameter in network.net.parameters())
    return {
        "parameters": size,
        "training": train_seconds,
        "sampling": draw_seconds,
        "training bytes": _peak() - before,
        "sampling bytes": draw_bytes,
    }


def _least(work: Callable[[], None], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 256), ("tokens", 256), ("repeats", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(json.dumps(measure(options.case, options.width, options.tokens, options.repeats)))
        return
    found = {}
    for case in CASES:
        done = subprocess.run([sys.executable, *sys.argv, "--case", case], capture_output=True, text=True, check=True)
        found[case] = json.loads(done.stdout)
    base = found[REFERENCE]
    rows = []
    for case, row in found.items():
        cells = [f"{row[name] * 1000:.1f} (1/{base[name] / row[name]:.3g})" for name in ("training", "sampling")]
        cells += [
            f"{row[name] / 2**20:.0f} (1/{base[name] / row[name]:.3g})" for name in ("training bytes", "sampling bytes")
        ]
        rows.append([case, f"{row['parameters']:,}", *cells])
    print(
        markdown(
            ["head", "parameters", "training, ms", "sampling, ms", "training, MiB", "sampling, MiB"], rows, words=[0]
        )
    )


if __name__ == "__main__":
    main()
