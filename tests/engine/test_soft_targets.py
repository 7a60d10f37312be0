"""Soft targets: the loss by hand in a small world, the hard loss as σ -> 0, what a model learns by them."""

from __future__ import annotations

import itertools
import math

import digit_oracle
import oracle
import pytest
import torch

from mmprime.engine import (
    MASK_ID,
    BaseDenoiser,
    Canvas,
    ChainHead,
    Codec,
    DigitNoise,
    FactoredHead,
    Head,
    SoftTargets,
    Span,
    generator_of,
    joint_loss,
    nelbo,
)

PAIR = digit_oracle.product_world(radices=(2, 4))
ONE = Canvas([Span("image", 1, Codec.product((2, 5)))])
HEADS = [FactoredHead(), ChainHead(), ChainHead(rounds=2)]


def kernel(true: int, radix: int, sigma: float) -> list[float]:
    mass = [math.exp(-((v - true) ** 2) / (2 * sigma**2)) for v in range(radix)]
    return [m / sum(mass) for m in mass]


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_the_loss_is_the_cross_entropy_to_the_kernel_in_the_context_of_true_values(head: Head) -> None:
    """All states of two tokens that are masked as wholes, each digit in turn: -Σ_v q(v | y) log p(v | true digits)."""
    model, y0, sigma = digit_oracle.DigitTable(PAIR.canvas, head), PAIR.y[9].tolist(), 0.8
    expected = 0.0
    for masked in ((0,), (1,), (0, 1)):
        y = tuple(MASK_ID if n // 2 in masked else d for n, d in enumerate(y0))
        chance = 1 / 2 / math.comb(2, len(masked))
        for token, level in itertools.product(masked, range(2)):
            sees = [y0[2 * token], MASK_ID] if level and head.name == "chain" else [MASK_ID, MASK_ID]
            p = model.chances(y, token, tuple(sees), level)
            q = kernel(y0[2 * token + level], (2, 4)[level], sigma)
            expected -= chance * 2 / len(masked) * sum(m * math.log(float(p[v])) for v, m in enumerate(q))
    rows = PAIR.y[9:10].expand(4000, -1)
    found = joint_loss(
        model, PAIR.canvas, rows, masking="token_synchronous", generator=generator_of(2), soft_targets={"image": sigma}
    )
    oracle.assert_mean(found.double(), expected, floor=1e-3)


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("noise", [None, DigitNoise(0.5)], ids=["", "noise"])
def test_the_limit_is_the_hard_loss_to_the_bit_in_values_and_gradients(head: Head, noise: DigitNoise | None) -> None:
    found = []
    for soft in ({}, {"image": 0.02}, {"image": 0.5}):
        model = digit_oracle.DigitTable(PAIR.canvas, head)
        model.table = model.table.clone().requires_grad_()
        loss = joint_loss(model, PAIR.canvas, PAIR.y, generator=generator_of(3), noise=noise, soft_targets=soft)
        loss.sum().backward()
        found.append((loss.detach(), model.table.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert bool(found[2][1].isfinite().all())
    assert not torch.allclose(found[0][0], found[2][0])


class Free(BaseDenoiser):
    """Logits (2, 5) of one token's digits, whatever is visible."""

    def __init__(self, p: list[list[float]]) -> None:
        self.weight = torch.tensor(p, dtype=torch.float64).log().requires_grad_()

    def __call__(self, y, canvas, cond=None):
        return torch.zeros(len(y), 1, 1, dtype=torch.float64)

    def head(self, span):
        return FactoredHead()

    def digit_logits(self, hidden, span, query):
        outside = torch.arange(5) >= torch.tensor(span.codec.radices)[query.level, None]
        return self.weight[query.level].masked_fill(outside, -torch.inf)


def test_the_optimum_is_the_smoothed_posterior_and_a_bound_is_hard() -> None:
    """Both losses are convex in the logits: where the gradient is 0 is the optimum."""
    y0 = torch.tensor([[0, 1], [1, 1], [1, 4], [1, 1]])
    coarse, fine = [0.25, 0.75, 1, 1, 1], [1e-9, 0.75, 1e-9, 1e-9, 0.25]
    smooth_fine = [(3 * a + b) / 4 for a, b in zip(kernel(1, 5, 1.0), kernel(4, 5, 1.0))]
    smooth_coarse = [(a + 3 * b) / 4 for a, b in zip(kernel(0, 2, 1.0), kernel(1, 2, 1.0))]
    for p, soft in (([coarse, fine], {}), ([smooth_coarse + [1] * 3, smooth_fine], {"image": 1.0})):
        for sigma in ({}, {"image": 1.0}):
            model = Free(p)
            how = {"masking": "token_synchronous", "generator": generator_of(0)}
            joint_loss(model, ONE, y0, soft_targets=sigma, **how).mean().backward()
            assert (float(model.weight.grad.abs().max()) < 1e-6) == (sigma == soft)
        by_hand = [-math.log(p[0][a] * p[1][b]) for a, b in y0.tolist()]
        scored = nelbo(model, ONE, y0, **how).detach()
        assert torch.allclose(scored.double(), torch.tensor(by_hand, dtype=torch.float64), atol=1e-5)


def test_what_soft_targets_cannot_be() -> None:
    model = digit_oracle.DigitTable(PAIR.canvas, FactoredHead())
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"σ of soft targets is a number > 0, got {sigma} for span 'image'"):
            SoftTargets(model, {"image": sigma}).check(PAIR.canvas)
    with pytest.raises(ValueError, match="no span 'text' on this canvas"):
        joint_loss(model, PAIR.canvas, PAIR.y, soft_targets={"text": 1.0})
    with pytest.raises(ValueError, match=r"span 'image': the head 'softmax' has one distribution over codes, soft"):
        joint_loss(oracle.random_table(PAIR.canvas), PAIR.canvas, PAIR.y, soft_targets={"image": 1.0})
