"""The corrector: its samples are those of its Markov chain over partial states; α is kept; digits go and come."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import oracle
import oracle_walk
import pytest
import torch

from mmprime.engine import Schedule, sample
from mmprime.engine.samplers import Corrector

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
PERFECT, WRONG = oracle.perfect(WORLD), oracle.wrong(WORLD)
BATCH = 4000
SCHEDULES = {"linear": Schedule.linear, "cosine": Schedule.cosine}


def drawn(record, world=WORLD) -> torch.Tensor:
    return oracle.counts_of(world.index(record.y), len(world.p))


def distribution_of_chain(world: oracle.World, denoiser, chances: list[tuple[float, float]]) -> torch.Tensor:
    """The distribution (K,) of a sample when at each step every masked digit is revealed with chance r, every
    visible one masked with chance s, whole codes being drawn from the state before the step: all states, all moves."""
    positions = range(world.canvas.num_subtokens)
    now = {(-1,) * len(positions): 1.0}
    for r, s in chances:
        after: dict[tuple[int, ...], float] = defaultdict(float)
        for y, mass in now.items():
            visible = frozenset(n for n in positions if y[n] >= 0)
            rows = world.y[((torch.tensor(y) < 0) | (torch.tensor(y) == world.y)).all(-1)]
            p = oracle.log_reveal(denoiser, world.canvas, rows, visible, frozenset(positions) - visible).exp()
            for row, q in zip(rows.tolist(), p.tolist()):
                for flip in itertools.product((False, True), repeat=len(positions)):
                    moves = [
                        (s if n in visible else r) if flip[n] else 1 - (s if n in visible else r) for n in positions
                    ]
                    state = tuple(row[n] if (n in visible) != flip[n] else -1 for n in positions)
                    after[state] += mass * q * math.prod(moves)
        now = after
    return torch.tensor([now.get(tuple(row), 0.0) for row in world.y.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_strength_it_is_ancestral_sampling_of_independent_digits(name):
    nll, _ = oracle_walk.likelihood_of(WRONG, CANVAS, WORLD.y, "independent", SCHEDULES[name](), steps=3)
    record = sample(WRONG, CANVAS, Corrector(3, 0.0, schedule=SCHEDULES[name]()), batch=BATCH, generator=1)
    oracle.assert_distribution(drawn(record), (-nll).exp())


@pytest.mark.parametrize("denoiser", ["perfect", "wrong"])
def test_its_distribution_is_that_of_its_chain(denoiser):
    """The rates of the formula, step by step: β = 3 sqrt(τ (1 - τ)) between a quarter and the end."""
    world = oracle.pair_world()
    model = oracle.perfect(world) if denoiser == "perfect" else oracle.wrong(world)
    alpha = [0.0, 0.25, 0.5, 0.75, 1.0]
    chances = []
    for k in range(4):
        beta = 3.0 * math.sqrt(alpha[k] * (1 - alpha[k])) if alpha[k] >= 0.25 else 0.0
        flow = alpha[k + 1] - alpha[k]
        hide = beta * flow / alpha[k] if k else 0.0
        limit = (1 - alpha[k + 1]) / alpha[k] if k else 0.0
        chances.append(((1 + beta) * flow / (1 - alpha[k]), hide) if hide <= limit else (1.0, limit))
    assert 0 < chances[2][1] < 1  # something is masked again
    probs = distribution_of_chain(world, model, chances)
    nll, _ = oracle_walk.likelihood_of(model, world.canvas, world.y, "independent", steps=4)
    assert float((probs - (-nll).exp()).abs().sum()) > 0.02  # and it is not the distribution without correction
    record = sample(model, world.canvas, Corrector(4, 3.0, start=0.25), batch=5 * BATCH, generator=2)
    oracle.assert_distribution(drawn(record, world), probs)


@pytest.mark.parametrize("strength", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_share_of_visible_digits_is_that_of_the_schedule(name, strength):
    """A digit is visible after step k with chance α_k, whatever β, also where the limit of σ cuts it."""
    schedule = SCHEDULES[name]()
    record = sample(PERFECT, CANVAS, Corrector(5, strength, schedule=schedule), batch=BATCH, generator=3, trace=True)
    seen = (record.trace.y >= 0).double().mean((1, 2))
    wanted = schedule.alpha(1 - torch.arange(1, 6, dtype=torch.float64) / 5)
    for share, alpha in zip(seen.tolist(), wanted.tolist()):
        assert share == pytest.approx(alpha, abs=4 * (0.25 / BATCH / CANVAS.num_subtokens) ** 0.5)


def test_single_digits_are_masked_again_and_given_ones_never():
    given = torch.where(torch.tensor([True, True, False, False, True, False]), WORLD.y[13], -1).expand(200, -1)
    record = sample(WRONG, CANVAS, Corrector(8, 5.0), given=given, generator=4, trace=True)
    WORLD.index(record.y)
    assert torch.equal(record.y[given >= 0], given[given >= 0])
    assert torch.equal(record.rank == 0, given >= 0)
    known = record.trace.y >= 0
    assert known[..., given[0] >= 0].all()
    coarse, fine = CANVAS.view(known, "text")[:, :, 1].unbind(-1)  # the second token of the text is free
    assert (coarse[:-1] & fine[:-1] & coarse[1:] & ~fine[1:]).any()
    assert (coarse[:-1] & fine[:-1] & ~coarse[1:] & fine[1:]).any()
    assert torch.equal(record.rank[-1] > 0, given[-1] < 0)


def test_nothing_is_masked_outside_the_window():
    record = sample(WRONG, CANVAS, Corrector(8, 5.0, 0.0, 0.25, 0.5), batch=200, generator=5, trace=True)
    again = ((record.trace.y[:-1] >= 0) & (record.trace.y[1:] < 0)).any(-1).any(-1).tolist()
    assert again == [False, True, True, False, False, False, False]  # steps 2..8; the window holds steps 3 and 4


def test_only_what_is_revealed_is_computed():
    model = oracle.wrong(WORLD)
    record = sample(model, CANVAS, Corrector(9, 0.0), batch=50, generator=7)
    assert record.nfe.tolist() == [len(set(row)) for row in record.rank.tolist()]
    token = CANVAS.token_of.expand_as(record.rank)
    pairs = torch.stack([torch.arange(50)[:, None].expand_as(token), token, record.rank], -1).flatten(0, 1)
    assert model.head_tokens == len(pairs.unique(dim=0))


def test_many_steps_of_the_perfect_denoiser_come_near_the_data():
    def distance(steps):
        record = sample(PERFECT, CANVAS, Corrector(steps, 2.0), batch=BATCH, generator=6)
        return 0.5 * float((drawn(record) / BATCH - WORLD.p).abs().sum())

    far, near, nearer = (distance(steps) for steps in (1, 4, 32))
    assert nearer < 0.5 * near < 0.5 * far


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"strength": -0.5}, "must be >= 0, got -0.5 and 0.5; strength 0 corrects nothing"),
        ({"power": -1.0}, "must be >= 0, got 1.0 and -1.0"),
        ({"start": 0.5, "stop": 0.5}, "needs 0 <= start < stop <= 1, got 0.5 and 0.5"),
        ({"stop": 1.5}, "got 0.0 and 1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Corrector(**options)
