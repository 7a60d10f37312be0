"""Standard errors of ratios, the stop at a precision and the constant of chance calibration, each by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mmprime.evaluation import likelihood
from mmprime.evaluation.calibration import Predictions, bin_predictions
from mmprime.evaluation.likelihood import ratio


def test_the_error_of_a_ratio_by_hand() -> None:
    """r = 9/4; residuals 1 - r, 2 - r, 6 - 2r; sqrt(3/2 Σ residual²) / 4."""
    value, error = ratio(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 1.0, 2.0]))
    assert value == 2.25
    assert error == pytest.approx(math.sqrt(1.5 * (1.25**2 + 0.25**2 + 1.5**2)) / 4)
    assert ratio(torch.tensor([3.0]), torch.tensor([2.0])) == (1.5, None)


def test_the_error_of_a_ratio_is_the_spread_of_repetitions() -> None:
    """Amounts follow their sizes: the error of the mean amount alone would be several times too large."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 20, (600, 50), generator=generator).double()
    amounts = 2 * sizes + torch.randn(600, 50, generator=generator, dtype=torch.float64)
    found = [ratio(*pair) for pair in zip(amounts, sizes)]
    spread = torch.tensor([value for value, _ in found]).std()
    said = torch.tensor([error for _, error in found]).mean()
    assert float(said) == pytest.approx(float(spread), rel=0.1)


@pytest.mark.parametrize(("slack", "count", "stops"), [(1.01, 40, True), (0.99, 40, False), (9.0, 31, False)])
def test_a_run_stops_when_its_error_is_the_one_asked_for(slack: float, count: int, stops: bool) -> None:
    """Nats a token, of the mean of the draws of each example seen; never on fewer than 32 examples."""
    draws = torch.where(torch.arange(60) < count, 2.0, 0.0).double()
    nats = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sizes = torch.full((60,), 5)
    error = float(nats[:count].std()) / math.sqrt(count) / 5
    assert likelihood._precise(nats * draws, draws, sizes, slack * error) is stops
    assert likelihood._precise(nats * draws, draws, sizes, None) is False


def test_what_a_calibrated_model_shows_by_chance() -> None:
    """One bin of confidence 0.6, 40 examples of one prediction: E|N(0, s)| = s sqrt(2/π) of its own error."""
    right = torch.arange(40) % 8 < 5
    bins = bin_predictions(Predictions(torch.full((40,), 0.6, dtype=torch.float64), right, torch.arange(40)), bins=10)
    gap, spread = 0.625 - 0.6, float(right.double().std()) / math.sqrt(40)
    assert bins.ece[0] == pytest.approx(gap)
    assert float(bins.gap_error[0]) == pytest.approx(spread)
    assert bins.excess[0] == pytest.approx(gap - spread * 0.7978845608)
