"""Muon beside torch's: the same update but for the rounding of bfloat16, whichever way this machine takes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mmprime.training import optim

SHAPES = [(24, 8), (8, 24), (8, 8), (24, 8)]


def theirs_of(weights: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Muon:
    return torch.optim.Muon(weights, lr, weight_decay, adjust_lr_fn="match_rms_adamw")


def steps(optimizer: Callable[..., torch.optim.Muon], count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    made = optimizer(weights, 0.1, 0.05)
    for _ in range(count):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        weights[1].grad = None  # what got no gradient stays
        made.step()
    return [weight.detach() for weight in weights]


def test_in_float32_it_is_torch_s_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "muon_in_bfloat16", lambda device: False)
    start, ours, theirs = steps(optim.Muon, 0), steps(optim.Muon, 3), steps(theirs_of, 3)
    assert torch.equal(ours[1], start[1])
    for was, here, there in zip(start[::2], ours[::2], theirs[::2], strict=True):
        assert (here - there).norm() < 0.03 * (there - was).norm()


def test_singular_values_of_an_update_are_about_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 24, 8), (3, 8, 24)):
        x = optim._orthogonalized(torch.randn(shape, generator=generator), (3.4445, -4.775, 2.0315), 5, 1e-7)
        values = torch.linalg.svdvals(x)
        assert x.shape == shape
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_a_step_s_size_is_that_of_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A root mean square of 0.2 lr where all singular values are one (Liu et al., section 2.2)."""
    monkeypatch.setattr(optim, "muon_in_bfloat16", lambda device: False)
    weight = nn.Parameter(torch.zeros(16, 64))
    weight.grad = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    optim.Muon([weight], 0.1, 0.1).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.25)
