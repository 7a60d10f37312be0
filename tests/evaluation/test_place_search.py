"""The search for place powers ends near the minimum of the exact bound, from a bad start, and reads the model only."""

from __future__ import annotations

import math

import oracle
import pytest
import torch

from mmprime.engine import Schedule, nelbo
from mmprime.evaluation.likelihood import Effort
from mmprime.evaluation.place_search import LIMIT, Data, Found, grid_of, judge, search
from mmprime.evaluation.tasks import tasks

WORLD = oracle.mixed_world()
TASK = tasks(WORLD.canvas)[-1]
DRAWN = torch.multinomial(WORLD.p, 300, replacement=True, generator=torch.Generator().manual_seed(0))
Y0 = WORLD.y[DRAWN]


def off_the_path(scale: float, power: float = 2.0) -> oracle.TableDenoiser:
    """The perfect denoiser with noise wherever the share of hidden coarse digits is not that of the fine ones to a
    power: in continuous time powers of ratio 1/power stay near the path where it is good."""
    hidden, digit = (oracle._all_states(WORLD.canvas) < 0).double(), WORLD.canvas.digit_of
    off = (hidden[:, digit == 0].mean(1) - hidden[:, digit == 1].mean(1) ** power).abs()
    table = oracle.perfect(WORLD).table.detach()
    noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return oracle.TableDenoiser(WORLD.canvas, table + scale * off[:, None, None] * noise)


def exact(denoiser: oracle.TableDenoiser, powers: tuple[float, ...], steps: int | None) -> float:
    """The mean of the exact bound over the examples, nats per token."""
    schedule = Schedule.places(powers, WORLD.canvas)
    value = nelbo.exact(denoiser, WORLD.canvas, WORLD.y, steps, schedule=schedule).bound
    return float(value.detach()[DRAWN].mean()) / WORLD.canvas.num_tokens


def found(denoiser: oracle.TableDenoiser, steps: int | None, ratio: float) -> Found:
    return search(denoiser, Data(WORLD.canvas, Y0, TASK, steps), 15, Effort(8, 3, 150), [ratio])


@pytest.mark.parametrize("ratio", [0.1, 4.0])
def test_learned_powers_are_near_the_best_in_continuous_time(ratio: float) -> None:
    denoiser = off_the_path(6.0)
    learned = found(denoiser, None, ratio)
    best = min(exact(denoiser, (1.0, r), None) for r in (0.35, 0.42, 0.5, 0.6, 0.71))
    value = exact(denoiser, learned.powers, None)
    assert exact(denoiser, (1.0, ratio), None) > best + 0.3  # where it started
    assert value < best + 0.03
    assert not learned.at_limit
    assert learned.powers[0] == 1.0
    assert learned.log_powers_stderr[0] == 0
    assert abs(math.log(learned.powers[1] / 0.5)) < 3 * learned.log_powers_stderr[1] < 0.6
    assert abs(learned.final.value - value) < 3 * learned.final.stderr
    difference = value - exact(denoiser, (1.0, 1.0), None)
    assert abs(learned.final.minus_even - difference) < 3 * learned.final.minus_even_stderr


def test_learned_powers_of_three_steps_beat_every_point_of_a_grid() -> None:
    """All powers move at finite T, for there their size counts too."""
    denoiser = off_the_path(2.0)
    learned = found(denoiser, 3, 4.0)
    grid = [exact(denoiser, (a, a * r), 3) for a in (0.5, 1.0, 2.0, 4.0) for r in (0.35, 0.7, 1.4)]
    assert exact(denoiser, learned.powers, 3) < min(grid) + 0.005
    assert learned.powers[0] > 2
    assert exact(denoiser, (1.0, 4.0), 3) > min(grid) + 0.1


def test_an_optimum_outside_is_told() -> None:
    """A denoiser that is best with one place wholly before the other: powers run to the limit."""
    denoiser = oracle.wrong(WORLD, 8, 1.5)
    assert exact(denoiser, (1.0, 1 / LIMIT), None) < exact(denoiser, (1.0, 0.25), None) - 0.03
    said: list[str] = []
    learned = search(denoiser, Data(WORLD.canvas, Y0, TASK), 15, Effort(2, 4, 150), [0.125], said.append)
    assert learned.at_limit
    assert learned.powers[1] == pytest.approx(1 / LIMIT, rel=0.05)
    assert "above the best point" not in said[-1]


def test_a_search_that_ends_above_its_start_says_so() -> None:
    """The same denoiser, and draws by which the first steps lead the other way, to a limit that is worse."""
    denoiser, said = oracle.wrong(WORLD, 8, 1.5), list[str]()
    learned = search(denoiser, Data(WORLD.canvas, Y0, TASK), 15, Effort(16, 3, 150), [0.125], said.append)
    assert learned.powers[1] == pytest.approx(LIMIT, rel=0.05)
    assert said[-1].startswith("the search ended at powers 1,16, 0.")
    assert "the best point of the sweep, powers 1,0.125" in said[-1]


def test_points_of_a_sweep_are_paired_and_powers_of_one_are_the_plain_bound() -> None:
    denoiser = off_the_path(2.0)
    points = judge(denoiser, Data(WORLD.canvas, Y0, TASK), [(1.0, 1.0), (1.0, 1.1)], Effort(8))
    assert (points[0].minus_even, points[0].minus_even_stderr) == (0.0, 0.0)
    assert points[1].minus_even == pytest.approx(points[1].value - points[0].value)
    assert 0 < points[1].minus_even_stderr < points[1].stderr / 2
    assert abs(points[0].value - exact(denoiser, (1.0, 1.0), None)) < 3 * points[0].stderr


def test_the_same_seed_finds_the_same_and_the_model_is_left_alone() -> None:
    denoiser = off_the_path(2.0)
    before = denoiser.table.detach().clone()
    lines: list[str] = []
    runs = [search(denoiser, Data(WORLD.canvas, Y0, TASK), 5, Effort(1, 2, 50), [0.5, 1.0], lines.append) for _ in "ab"]
    assert runs[0] == runs[1]
    assert torch.equal(denoiser.table, before)
    assert denoiser.table.grad is None
    assert len(runs[0].path) == 5
    assert sum("minus powers of 1" in line for line in lines) == 4


def test_ladders() -> None:
    assert grid_of(2, [0.5, 1.0]) == [(1.0, 0.5), (1.0, 1.0)]
    assert grid_of(3, [4.0]) == [(1.0, 2.0, 4.0)]


def test_refusals() -> None:
    denoiser, data = oracle.wrong(WORLD), Data(WORLD.canvas, Y0, TASK)
    with pytest.raises(ValueError, match="got 3, 64 and 10"):
        search(denoiser, Data(WORLD.canvas, Y0[:3], TASK), 10)
    with pytest.raises(ValueError, match="got 300, 64 and 0"):
        search(denoiser, data, 0)
    with pytest.raises(ValueError, match=r"between 1/16 and 16, got \[20.0\]"):
        search(denoiser, data, 10, ratios=[20.0])
