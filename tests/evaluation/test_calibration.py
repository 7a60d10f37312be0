"""Calibration: the perfect denoiser shows none but chance, sharper and flatter ones are found out, sums are exact."""

from __future__ import annotations

import math

import oracle
import pytest
import torch

from mmprime.engine import MASK_ID, MASKINGS, Canvas, Codec, Rows, Span
from mmprime.evaluation.calibration import Predictions, bin_predictions, calibration_rows, predict
from mmprime.evaluation.likelihood import Effort
from mmprime.evaluation.tasks import choose_tasks, evaluation_tasks


def drawn(world: oracle.World, count: int) -> torch.Tensor:
    """Rows of a world, (count, N), as data would be."""
    picked = torch.multinomial(world.p, count, replacement=True, generator=torch.Generator().manual_seed(0))
    return world.y[picked]


def sharpened(world: oracle.World, power: float) -> oracle.TableDenoiser:
    """The perfect denoiser with every probability raised to a power."""
    return oracle.TableDenoiser(world.canvas, power * oracle.perfect(world).table.detach())


@pytest.mark.parametrize("masking", list(MASKINGS))
def test_the_perfect_denoiser_is_calibrated_and_distorted_ones_are_not(masking: str) -> None:
    world = oracle.mixed_world()
    y0 = drawn(world, 4000)

    def measured(power: float):
        return bin_predictions(predict(sharpened(world, power), world.canvas, y0, masking, Effort(batch=1000)))

    perfect, sharp, flat = measured(1.0), measured(2.0), measured(0.5)
    assert abs(perfect.excess[0]) < 3 * perfect.excess[1]
    assert abs(perfect.overconfidence[0]) < 3 * perfect.overconfidence[1]
    assert sharp.excess[0] > 8 * sharp.excess[1]
    assert sharp.overconfidence[0] > 8 * sharp.overconfidence[1]
    assert flat.excess[0] > 8 * flat.excess[1]
    assert flat.overconfidence[0] < -8 * flat.overconfidence[1]
    assert sharp.ece[0] > perfect.ece[0] + 5 * sharp.ece[1]


@pytest.mark.parametrize("masking", list(MASKINGS))
def test_confidences_are_the_engines_own_probabilities(masking: str) -> None:
    """Right and unsure predictions of a token of two digits, against masses summed code by code."""
    table = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    p = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
    world = oracle.make_world([Span("text", 1, Codec.from_table(table))], 0, p=p)
    found = predict(oracle.perfect(world), world.canvas, world.y[3:].expand(64, -1), masking)
    seen = {(round(c, 6), r) for c, r in zip(found.confidence.tolist(), found.right.tolist())}
    coarse, fine = (0.6, True), (0.7, True)  # either digit alone: p(1, .) = 0.6 and p(., 1) = 0.7, both right
    second, first = (round(0.4 / 0.6, 6), True), (round(0.4 / 0.7, 6), True)  # one digit known, the other hidden
    expected = {key: {coarse, second} for key in ("nested", "coarse_first")} | {"token_synchronous": {(0.4, True)}}
    assert seen == expected.get(masking, {coarse, fine, second, first})
    wrong = predict(oracle.perfect(world), world.canvas, world.y[:1].expand(8, -1), "token_synchronous")
    assert not wrong.right.any()


def test_agreement_with_the_likelihood() -> None:
    """The confidence of a digit is the largest of the masses the likelihood would charge."""
    canvas = Canvas([Span("text", 1, Codec.base(5, 2))])
    denoiser = oracle.random_table(canvas)
    found = predict(denoiser, canvas, canvas.pack({"text": torch.full((40, 1), 4)}), "nested")
    hidden = torch.tensor([[MASK_ID, MASK_ID]])
    grid = canvas.spans[0].codec.to_grid(denoiser.logits(denoiser(hidden, canvas)[:, 0], canvas.spans[0]))
    grid = (grid - grid.flatten(1).logsumexp(-1)).detach()
    masses = grid[0].exp().sum(-1).tolist()
    assert sum(masses) == pytest.approx(1)
    assert any(c == pytest.approx(max(masses), rel=1e-6) for c in found.confidence.tolist())


def test_given_parts_are_not_predicted() -> None:
    world = oracle.mixed_world()
    task = choose_tasks(evaluation_tasks(world.canvas), ["image|text"])[0]
    rows = Rows.of(world.canvas, drawn(world, 50), task.given, task.absent)
    found = predict(oracle.perfect(world), world.canvas, rows, "token_synchronous", Effort(samples=2))
    assert len(found.confidence) == 100  # one token of the image, at two states
    assert found.example.bincount().tolist() == [2] * 50
    assert {row.nfe for row in calibration_rows("x", found, bin_predictions(found))} == {2}


def test_bins_are_those_of_hand() -> None:
    found = Predictions(
        confidence=torch.tensor([0.2, 0.3, 0.9, 1.0], dtype=torch.float64),
        right=torch.tensor([False, True, True, True]),
        example=torch.tensor([0, 1, 0, 1]),
    )
    bins = bin_predictions(found, 2)
    assert bins.count.tolist() == [2, 2]
    assert bins.confidence.tolist() == pytest.approx([0.25, 0.95])
    assert bins.accuracy.tolist() == [0.5, 1.0]
    assert bins.ece[0] == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)
    assert bins.overconfidence[0] == pytest.approx(2.4 / 4 - 3 / 4)
    # residuals of the first bin: (0 - 0.2 - 0.25), (1 - 0.3 - 0.25); s.e. = sqrt(2 (0.45² + 0.45²)) / 2
    assert bins.gap_error[0] == pytest.approx(math.sqrt(4 * 0.45**2) / 2)
    assert bins.gap_error[1] == pytest.approx(math.sqrt(0.9 * 0.1) / 2)  # all right: as of a calibrated model


def test_examples_are_resampled_not_predictions() -> None:
    """A hundred copies of each prediction within an example leave the standard errors as they were."""
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(300, generator=generator, dtype=torch.float64)
    right = torch.rand(300, generator=generator) < 0.5
    once = bin_predictions(Predictions(confidence, right, torch.arange(300)))
    copies = [each.repeat_interleave(100) for each in (confidence, right, torch.arange(300))]
    often = bin_predictions(Predictions(*copies))
    assert often.ece == pytest.approx(once.ece)
    assert often.excess == pytest.approx(once.excess)
    assert torch.allclose(often.gap_error, once.gap_error)


def test_standard_error_is_the_spread_of_repetitions() -> None:
    """Of ECE and overconfidence of a miscalibrated source, over fresh data."""
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(60):
        truth = torch.rand(400, generator=generator, dtype=torch.float64)
        right = torch.rand(400, generator=generator, dtype=torch.float64) < truth
        values.append(bin_predictions(Predictions(truth.sqrt(), right, torch.arange(400)), 10))
    for name in ("ece", "overconfidence"):
        pairs = torch.tensor([getattr(each, name) for each in values], dtype=torch.float64)
        assert float(pairs[:, 0].std()) == pytest.approx(float(pairs[:, 1].mean()), rel=0.3)
    assert float(pairs[:, 0].mean()) == pytest.approx(2 / 3 - 1 / 2, abs=0.01)


def test_rows_and_refusals() -> None:
    world = oracle.pair_world()
    found = predict(oracle.perfect(world), world.canvas, drawn(world, 60))
    bins = bin_predictions(found, 10, seed=3)
    rows = list(calibration_rows("text", found, bins, 3))
    assert [row.metric for row in rows[:3]] == [
        "text: calibration error (ECE)",
        "text: calibration error beyond chance",
        "text: overconfidence",
    ]
    assert len(rows) == 3 + len(bins.count)
    assert sum(row.num_samples for row in rows[3:]) == rows[0].num_samples == len(found.right)
    assert all(row.stderr is not None and row.seed == 3 for row in rows)
    with pytest.raises(ValueError, match="unknown masking 'random'"):
        predict(oracle.perfect(world), world.canvas, world.y, "random")
    with pytest.raises(ValueError, match="no example"):
        predict(oracle.perfect(world), world.canvas, world.y[:0])
    with pytest.raises(ValueError, match="is masked in the data"):
        predict(oracle.perfect(world), world.canvas, torch.full_like(world.y, MASK_ID))
    with pytest.raises(ValueError, match="at least 2 examples"):
        bin_predictions(predict(oracle.perfect(world), world.canvas, world.y[:1]))
