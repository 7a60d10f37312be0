"""The bound as a function of place powers: exact over all states, gradients against finite differences."""

from __future__ import annotations

import itertools

import oracle
import pytest
import torch

from mmprime.engine import Canvas, Codec, Schedule, Span, nelbo
from mmprime.evaluation.place_bound import PlaceBound, States
from mmprime.evaluation.tasks import Task, tasks

MIXED = oracle.mixed_world()
SINGLE = oracle.make_world([Span("text", 2, Codec.base(3, 1)), Span("image", (1, 1), Codec.base(5, 2))], 4)
WORLDS = {"two digits": MIXED, "one digit beside two": SINGLE}
WRONG = {name: oracle.wrong(world) for name, world in WORLDS.items()}


def powers_of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact(name: str, y0: torch.Tensor, task: Task, steps: int | None, powers: torch.Tensor) -> torch.Tensor:
    canvas = WORLDS[name].canvas
    schedule = Schedule.places(powers.tolist(), canvas)
    return nelbo.exact(WRONG[name], canvas, y0, steps, given=task.given, schedule=schedule).bound.detach()


def every_state(bound: PlaceBound, name: str, row: torch.Tensor) -> States:
    """All hidden sets of one row, each once: with log_q = 0 the sum of the estimates is L itself."""
    free = bound.free.nonzero()[:, 0]
    hidden = torch.zeros(2 ** len(free), len(bound.free), dtype=torch.bool)
    hidden[:, free] = torch.tensor(list(itertools.product([False, True], repeat=len(free))))
    with torch.no_grad():
        counts, nats, number = bound.score(WRONG[name], row.expand(len(hidden), -1), hidden)
    return States(counts, nats, number, torch.zeros(len(hidden), dtype=torch.float64))


@pytest.mark.parametrize("place", [0, -1], ids=["image given text", "everything"])
@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("name", WORLDS)
def test_summed_over_all_states_it_is_the_exact_bound_with_its_gradient(
    name: str, steps: int | None, place: int
) -> None:
    world = WORLDS[name]
    task, row = tasks(world.canvas)[place], world.y[13:14]
    bound = PlaceBound(world.canvas, task, steps)
    states = every_state(bound, name, row)
    for values in ((1.0, 1.0), (0.7, 2.2), (4.0, 0.5)):
        powers = powers_of(*values).requires_grad_()
        value = bound.estimate(states, powers).sum()
        assert float(value.detach()) == pytest.approx(float(exact(name, row, task, steps, powers)), abs=1e-7)
        (gradient,) = torch.autograd.grad(value, powers)
        for g in range(2):
            nudge = 1e-4 * torch.eye(2, dtype=torch.float64)[g]
            ends = [exact(name, row, task, steps, powers.detach() + sign * nudge) for sign in (1, -1)]
            assert float(gradient[g]) == pytest.approx(float((ends[0] - ends[1]) / 2e-4), abs=1e-6)


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("name", WORLDS)
def test_prices_have_the_mean_that_is_claimed(name: str, steps: int | None) -> None:
    """The control variate alone, summed over all states: its mean over them is `_mean_priced` at every p."""
    world = WORLDS[name]
    bound = PlaceBound(world.canvas, tasks(world.canvas)[-1], steps)
    states = every_state(bound, name, world.y[:1])
    for values in ((1.0, 1.0), (0.6, 3.0)):
        rates = bound.rates(powers_of(*values))
        reveal = bound._reveal(rates)
        weight = (bound._log_chance(states.hidden, rates) + bound.log_measure).exp() @ bound._coefficients(reveal).T
        mean = (weight[..., None] * bound._priced(states)).sum((0, 1))
        assert torch.allclose(mean, bound._mean_priced(rates, reveal), atol=1e-6)
        assert torch.allclose(
            mean.view(len(bound.sizes), -1)[:, 0], bound.sizes, atol=1e-6
        )  # each digit is revealed once


@pytest.mark.parametrize("controlled", [False, True], ids=["plain", "controlled"])
@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("name", WORLDS)
def test_drawn_states_estimate_value_and_gradient_at_other_powers(
    name: str, steps: int | None, controlled: bool
) -> None:
    world = WORLDS[name]
    task = tasks(world.canvas)[-1]
    bound = PlaceBound(world.canvas, task, steps)
    rows = world.y[torch.tensor([0, 13, 22, 37, 44])].repeat(1500, 1)
    states = bound.draw(WRONG[name], rows, powers_of(1.0, 1.5), torch.Generator().manual_seed(0))
    prices = bound.prices(states) if controlled else None
    for values in ((1.0, 1.5), (1.0, 0.8)):
        powers = powers_of(*values)
        oracle.assert_mean(
            bound.estimate(states, powers, prices), float(exact(name, rows[:5], task, steps, powers).mean())
        )
        apart = torch.func.jacfwd(lambda p: bound.estimate(states, p, prices))(powers)
        for g in range(2):
            nudge = 1e-4 * torch.eye(2, dtype=torch.float64)[g]
            ends = [exact(name, rows[:5], task, steps, powers + sign * nudge).mean() for sign in (1, -1)]
            oracle.assert_mean(apart[:, g], float((ends[0] - ends[1]) / 2e-4), floor=1e-5)


def test_powers_that_are_far_apart_are_no_harder_to_estimate() -> None:
    """A uniform time would nearly always see all digits of one place hidden, and weigh the other states heavily."""
    bound, rows = PlaceBound(MIXED.canvas, tasks(MIXED.canvas)[-1]), MIXED.y[:40].repeat(100, 1)
    spread = []
    for values in ((1.0, 1.0), (1.0, 1 / 16), (1.0, 16.0)):
        states = bound.draw(WRONG["two digits"], rows, powers_of(*values), torch.Generator().manual_seed(0))
        spread.append(float(bound.estimate(states, powers_of(*values)).std()))
    assert max(spread[1:]) < 1.5 * spread[0]


def test_the_control_variate_makes_gradients_quieter() -> None:
    """A row of many digits under a denoiser that knows nothing: with prices nothing is left to vary."""
    canvas = Canvas([Span("text", 20, Codec.base(4, 2))])
    bound = PlaceBound(canvas, tasks(canvas)[-1])

    class Flat:
        def __call__(self, y, canvas, cond=None):
            return torch.zeros(len(y), canvas.num_tokens, 4, dtype=torch.float64)

        def logits(self, hidden, span):
            return hidden

    y0 = torch.zeros(400, 40, dtype=torch.int64)
    states = bound.draw(Flat(), y0, powers_of(1.0, 1.0), torch.Generator().manual_seed(0))
    plain, controlled = (
        torch.func.jacfwd(lambda p, c=prices: bound.estimate(states, p, c))(powers_of(1.0, 1.0)).std()
        for prices in (None, bound.prices(states))
    )
    assert float(controlled) < 1e-3 * float(plain)


def test_many_digits_need_a_fine_quadrature() -> None:
    """All states of 400 digits by their counts: with p = (1, 1) every number of hidden digits has chance 1/m."""
    canvas = Canvas([Span("text", 200, Codec.base(4, 2))])
    bound = PlaceBound(canvas, tasks(canvas)[-1])
    counts = torch.tensor([[1.0, 0.0], [100, 100], [200, 0], [150, 199]], dtype=torch.float64)
    for values in ((1.0, 1.0), (1.0, 8.0)):
        rates = powers_of(*values)
        found = (bound._log_chance(counts, rates) + bound.log_measure - bound.log_t).logsumexp(-1)
        if values == (1.0, 1.0):
            m = counts.sum(-1)
            assert torch.allclose(found, torch.lgamma(m) + torch.lgamma(401 - m) - torch.lgamma(powers_of(401.0)))
        fine = PlaceBound(canvas, tasks(canvas)[-1])
        z = torch.arange(-36.0, 44.0, 0.01, dtype=torch.float64)
        fine.log_t = -torch.nn.functional.softplus(-z)
        fine.log_measure = fine.log_t - torch.nn.functional.softplus(z) + torch.tensor(0.01).double().log()
        again = (fine._log_chance(counts, rates) + fine.log_measure - fine.log_t).logsumexp(-1)
        assert torch.allclose(found, again, atol=1e-7)


def test_refusals() -> None:
    task = tasks(MIXED.canvas)[-1]
    with pytest.raises(ValueError, match="at least one step, got 0"):
        PlaceBound(MIXED.canvas, task, 0)
    plain = oracle.plain_world().canvas
    with pytest.raises(ValueError, match=r"one number of digits > 1, got \[1\]"):
        PlaceBound(plain, tasks(plain)[-1])
    with pytest.raises(ValueError, match="scores no token with more than one digit"):
        PlaceBound(SINGLE.canvas, next(task for task in tasks(SINGLE.canvas) if task.name == "text|image"))
    bits = Canvas([Span("text", 2, Codec.base(32, 5))])
    with pytest.raises(ValueError, match=r"5 digits a token .* T = 4, at most 4"):
        PlaceBound(bits, tasks(bits)[-1], 4)
    assert len(PlaceBound(bits, tasks(bits)[-1]).events) == 5
    bound = PlaceBound(MIXED.canvas, task)
    states = bound.draw(WRONG["two digits"], MIXED.y[:3], powers_of(1.0, 1.0), torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at least 4 states, got 3"):
        bound.prices(states)
