"""Distributions of the masked share: their quantiles against densities, and what the joint loss makes of them."""

from __future__ import annotations

import math
from statistics import NormalDist

import oracle
import pytest
import torch

from mmprime.engine import Codec, Span, generator_of, joint_loss, masked_share

U = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
WORLD = oracle.make_world([Span("text", 3, Codec.base(3, 1))], 1)


@pytest.mark.parametrize(("mean", "std", "low"), [(1.0, 0.1, 0.5), (0.55, 0.25, 0.0), (1.2, 0.3, 0.7)])
def test_a_truncated_normal_has_its_distribution_function(mean: float, std: float, low: float) -> None:
    share = masked_share(U, f"truncated_normal:{mean}:{std}:{low}").tolist()
    normal = NormalDist(mean, std)
    outside = normal.cdf(low)
    for u, s in zip(U.tolist(), share):
        assert low <= s <= 1
        assert math.isclose((normal.cdf(s) - outside) / (normal.cdf(1.0) - outside), u, abs_tol=1e-9)
    if (mean, std, low) == (1.0, 0.1, 0.5):
        assert masked_share(U, "truncated_normal").tolist() == share


def test_arccos_has_its_density() -> None:
    share = masked_share(U, "arccos")
    assert torch.allclose(share.asin() * 2 / math.pi, U)  # ∫_0^s (2 / π) / sqrt(1 - x²) dx = u
    assert abs(float(share.mean()) - 2 / math.pi) < 1e-6
    assert torch.equal(masked_share(U, "", 2.0), 1 - (1 - U) ** 2)
    edge = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    for rate in ("arccos", "truncated_normal"):
        assert bool((masked_share(edge, rate) <= 1).all())


def test_the_loss_masks_as_many_as_the_share_says() -> None:
    """Each count of masked tokens has its chance under the rate, and weighs n/m as ever."""
    model, y0 = oracle.random_table(WORLD.canvas), WORLD.y[5:6]
    edges = torch.tensor([1 / 3, 2 / 3]).asin() * 2 / math.pi
    chance = torch.cat([edges, torch.ones(1)]).diff(prepend=torch.zeros(1))
    expected = 0.0
    for m in (1, 2, 3):
        states = (
            [set(range(3)) - {n} for n in range(3)] if m == 2 else [{n} for n in range(3)] if m == 1 else [{0, 1, 2}]
        )
        for masked in states:
            visible = frozenset(range(3)) - masked
            nats = -float(oracle.log_reveal(model, WORLD.canvas, y0, visible, frozenset(masked)))
            expected += float(chance[m - 1]) / len(states) * 3 / m * nats
    rows = y0.expand(20000, -1)
    found = joint_loss(model, WORLD.canvas, rows, generator=generator_of(1), mask_rate="arccos").detach()
    oracle.assert_mean(found.double(), expected, floor=1e-3)
    few = joint_loss(model, WORLD.canvas, rows, generator=generator_of(1)).detach()
    assert abs(float(few.mean()) - expected) > 0.01


@pytest.mark.parametrize("numbers", ["1", "1:0:0.5", "1:0.1:1", "a:b:c", "9:0.1:0.5", "nan:0.1:0.5"])
def test_a_rate_that_is_none_is_quoted_with_those_there_are(numbers: str) -> None:
    for rate in (f"truncated_normal:{numbers}", "cosine", f"arccos:{numbers}"):
        with pytest.raises(ValueError, match=f"no mask rate '{rate}'; there are arccos, truncated_normal"):
            masked_share(U, rate)


def test_a_rate_and_a_power_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="mask_power=2 and mask_rate='arccos' both say"):
        masked_share(U, "arccos", 2.0)
