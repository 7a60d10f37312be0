"""Schedules: derivative against autograd, inverse, windows, regions."""

from __future__ import annotations

import pytest
import torch

from mmprime.engine import Canvas, Codec, Schedule, Span

CANVAS = Canvas([Span("text", 2, Codec.base(4, 2)), Span("image", (1, 2), Codec.base(8, 3))])
TIMES = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
SCHEDULES = {
    "linear": Schedule.linear(),
    "cosine": Schedule.cosine(),
    "square": Schedule.polynomial(2.0),
    "root": Schedule.polynomial(0.5),
}
BY_SPAN = Schedule.regions({"text": Schedule.cosine(), "image": Schedule.polynomial(2.0)}, CANVAS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_value_derivative_weight_inverse(name: str) -> None:
    schedule = SCHEDULES[name]
    t = TIMES.clone().requires_grad_()
    alpha, derivative = schedule.at(t)
    (by_autograd,) = torch.autograd.grad(alpha.sum(), t)
    assert torch.allclose(derivative, by_autograd, atol=1e-12)
    assert torch.allclose(schedule.weight(TIMES), -by_autograd / (1 - alpha.detach()), atol=1e-12)
    assert torch.allclose(schedule.inverse(schedule.alpha(TIMES)), TIMES, atol=1e-9)
    assert torch.allclose(schedule.alpha(schedule.inverse(TIMES)), TIMES, atol=1e-9)
    assert (alpha.diff() < 0).all()
    ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(ends, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-12)


def test_formulas() -> None:
    t = TIMES
    assert torch.allclose(SCHEDULES["linear"].weight(t), 1 / t)
    assert torch.allclose(SCHEDULES["square"].alpha(t), 1 - t**2)
    assert torch.allclose(SCHEDULES["square"].weight(t), 2 / t)
    assert torch.allclose(SCHEDULES["cosine"].alpha(t), 1 - torch.sin(torch.pi / 2 * t))
    assert float(SCHEDULES["linear"].weight(torch.tensor(0.0))) == 0.0  # nothing is hidden at t = 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_window_squeezes(name: str) -> None:
    base, window = SCHEDULES[name], SCHEDULES[name].window(0.3, 0.7)
    inside = 0.3 + 0.4 * TIMES
    assert torch.allclose(window.alpha(inside), base.alpha(TIMES), atol=1e-9)
    assert torch.allclose(window.at(inside).derivative, base.at(TIMES).derivative / 0.4, atol=1e-9)
    assert torch.allclose(window.weight(inside), base.weight(TIMES) / 0.4, atol=1e-6)
    assert torch.allclose(window.inverse(window.alpha(inside)), inside, atol=1e-9)
    outside = torch.tensor([0.0, 0.2, 0.8, 1.0], dtype=torch.float64)
    assert torch.allclose(window.alpha(outside), torch.tensor([1.0, 1, 0, 0], dtype=torch.float64), atol=1e-12)
    assert torch.equal(window.weight(outside), torch.zeros(4, dtype=torch.float64))
    t = inside.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(window.alpha(t).sum(), t)
    assert torch.allclose(window.at(inside).derivative, by_autograd, atol=1e-9)


def test_regions_give_each_position_its_own() -> None:
    t = torch.tensor([[0.2], [0.9]], dtype=torch.float64)
    for name in ("alpha", "weight", "inverse"):
        merged = getattr(BY_SPAN, name)(t)
        assert merged.shape == (2, 10)
        assert torch.allclose(merged[:, :4], getattr(Schedule.cosine(), name)(t).expand(2, 4))
        assert torch.allclose(merged[:, 4:], getattr(Schedule.polynomial(2.0), name)(t).expand(2, 6))
    coarse = CANVAS.mask(digits=[0])
    by_digit = Schedule.regions([(coarse, Schedule.linear()), (~coarse, Schedule.cosine())], CANVAS)
    assert torch.equal(by_digit.alpha(t)[:, coarse], (1 - t).expand(2, 4))


def test_regions_must_tile_the_canvas() -> None:
    text = CANVAS.mask("text")
    with pytest.raises(ValueError, match="sub-token 4 lies in 0"):
        Schedule.regions([(text, Schedule.linear())], CANVAS)
    with pytest.raises(ValueError, match="sub-token 0 lies in 2"):
        Schedule.regions([(text, Schedule.linear()), (CANVAS.mask(), Schedule.linear())], CANVAS)
    with pytest.raises(ValueError, match="'audio'"):
        Schedule.regions({"audio": Schedule.linear()}, CANVAS)


def test_refusals() -> None:
    for power in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=str(power)):
            Schedule.polynomial(power)
    for start, stop in ((0.5, 0.5), (-0.1, 0.5), (0.2, 1.5), (0.7, 0.3)):
        with pytest.raises(ValueError, match=str(stop)):
            Schedule.linear().window(start, stop)
