"""Models trained with and without wrong digits, and what samplers that revise make of planted errors.

The world: a class of six codes; the first token tells it, each of the others with chance 0.75 and anything else alike.
A model that saw only true digits believes the first token; when it is wrong, the others say so.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmprime.engine import Canvas, Codec, DigitNoise, Sampler, Span, begin, generator_of, joint_loss
from mmprime.engine.samplers import Corrector, PathPlanning, ReMDM
from mmprime.models import DiTConfig, PrimeDiT

TOKENS, STEPS, COUNT = 6, 500, 1500
CANVAS = Canvas([Span("image", TOKENS, Codec.product((2, 3)))])
PLANTED = CANVAS.token_of == 0


def examples(count: int, generator: torch.Generator) -> Tensor:
    told = torch.randint(6, (count, 1), generator=generator).expand(-1, TOKENS)
    other = torch.randint(6, (count, TOKENS), generator=generator)
    lost = (torch.rand(count, TOKENS, generator=generator) < 0.3) & (torch.arange(TOKENS) > 0)
    return CANVAS.pack({"image": torch.where(lost, other, told)})


def trained(head: str, noise: DigitNoise | None) -> PrimeDiT:
    torch.manual_seed(1)
    net = PrimeDiT(CANVAS, DiTConfig(head=head, width=32, depth=1, heads=2))
    optimizer = torch.optim.AdamW(net.parameters(), 0.005)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, STEPS)
    generator = generator_of(5)
    for _ in range(STEPS):
        optimizer.zero_grad()
        rows = examples(64, generator)
        joint_loss(net, CANVAS, rows, masking="independent", generator=generator, noise=noise).mean().backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def mended(net: PrimeDiT, sampler: Sampler, done: int) -> tuple[float, float]:
    """Of both digits of the first token, wrong after `done` steps while all others are right: the share that is right
    at the end, and the share of those drawn anew that is."""
    generator = generator_of(3)
    y0 = examples(COUNT, generator)
    radix = torch.tensor([2, 3] * TOKENS)
    wrong = (y0 + 1 + (torch.rand(y0.shape, generator=generator) * (radix - 1)).long()) % radix
    run = begin(net, CANVAS, sampler, generator=4, batch=COUNT)
    y, rank = torch.where(PLANTED, wrong, y0), torch.ones_like(y0)
    run.load_state(run.state() | {"y": y, "rank": rank, "number": torch.tensor(done)})
    while run.step():
        pass
    right, anew = (run.y == y0)[:, PLANTED], (run.rank > done)[:, PLANTED]
    return float(right.double().mean()), float(right[anew].double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("head", ["factored", "chain"])
def test_a_model_trained_on_wrong_digits_mends_more_of_them(head: str) -> None:
    """Standard errors are about 0.01."""
    plain, noisy = trained(head, None), trained(head, DigitNoise(0.3))
    planned = PathPlanning(8, unit="digit")  # looks: the wrong digits are the ones it masks again
    assert mended(noisy, planned, 4)[0] > mended(plain, planned, 4)[0] + 0.15
    for blind in (Corrector(16, 8.0), ReMDM(16, "cap", 0.5, unit="digit")):  # draw anew whatever comes
        (some, better), (few, worse) = mended(noisy, blind, 11), mended(plain, blind, 11)
        assert some > few + 0.02
        assert better > worse + 0.04
