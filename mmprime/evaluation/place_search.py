"""Which place powers minimise the NELBO of a trained model: a sweep over a grid, then stochastic Newton steps on ln p.

The sweep estimates every point by `nelbo` itself on the same examples and random numbers, so differences are paired.

Learning: every iteration draws a batch of states at the current powers; all states so far count as draws from the
mixture of all powers so far (balance heuristic: Veach & Guibas, SIGGRAPH 1995), so slope g and curvature H of the bound
at the current powers come from all of them (`PlaceBound`), and ln p moves by -|H|^{-1} g, at most 0.4. The noise in g
falls as the pool grows. Its covariance V gives ln p a standard error, the diagonal of |H|^{-1} V |H|^{-1}: where the
bound is flat it is large, and powers that are far from each other are equally good.

In continuous time only ratios count, so p_1 = 1 stays (unless tokens of one digit, whose power is 1, are scored too);
at T steps all powers move. The model is only read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmprime.console import bar
from mmprime.engine import Canvas, Condition, Denoiser, generator_of, mix

from .likelihood import Effort, Sizes, estimate, ratio
from .place_bound import PlaceBound, States
from .quantities import Quantity
from .tasks import Task

RATIOS = (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0)
LIMIT = 16.0  # powers stay in [1/LIMIT, LIMIT]
_LONGEST = 0.4  # step of ln p
_CHUNK = 512  # states differentiated at a time
_LEARN_STREAM, _FINAL_STREAM = 7, 11


@dataclass(frozen=True)
class Point:
    """value, stderr: nats per token; minus_even, its stderr: paired difference to powers of 1."""

    powers: tuple[float, ...]
    value: float
    stderr: float
    minus_even: float
    minus_even_stderr: float


@dataclass(frozen=True)
class Found:
    """sweep: the grid; path: powers after each iteration; powers: the last of them, log_powers_stderr: standard errors
    of their logarithms; final: these judged on fresh random numbers. at_limit: a power ended at 1/16 or 16."""

    sweep: tuple[Point, ...]
    path: tuple[tuple[float, ...], ...]
    powers: tuple[float, ...]
    log_powers_stderr: tuple[float, ...]
    final: Point
    num_examples: int
    at_limit: bool


@dataclass(frozen=True)
class Data:
    """What is scored: rows y0 (n, N) of a canvas, a task, conditions, sizes; steps None is continuous time."""

    canvas: Canvas
    y0: Tensor
    task: Task
    steps: int | None = None
    cond: Condition | None = None
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def tokens(self) -> Tensor:
        """(n,) tokens scored in each row, padding left out."""
        return self.sizes.tokens(self.task, self.canvas, len(self.y0))


def grid_of(num_places: int, ratios: Sequence[float] = RATIOS) -> list[tuple[float, ...]]:
    """Geometric ladders of powers from 1 at the coarsest place to each ratio at the finest.

    >>> grid_of(3, [4.0])
    [(1.0, 2.0, 4.0)]
    """
    return [tuple(round(ratio ** (j / (num_places - 1)), 4) for j in range(num_places)) for ratio in ratios]


def search(
    denoiser: Denoiser,
    data: Data,
    iterations: int = 30,
    effort: Effort | None = None,
    ratios: Sequence[float] = RATIOS,
    tell: Callable[[str], None] = lambda line: None,
) -> Found:
    """Sweep, learn from the best point of the sweep, judge again. effort: draws for each point, seed, batch.

    The search is local and noisy; where it ends above the point it began at, `tell` gets a line that says so.

    Raises ValueError as `PlaceBound`, on fewer than 4 examples or batches of 4, iterations < 1, or ratios that are not
    within 1/16..16.
    """
    effort = effort or Effort()
    bound = PlaceBound(data.canvas, data.task, data.steps)
    if min(len(data.y0), effort.batch) < 4 or iterations < 1:
        raise ValueError(
            f"at least 4 examples, batches of 4 and 1 iteration are needed, got {len(data.y0)}, {effort.batch} and "
            f"{iterations}"
        )
    if not ratios or not all(1 / LIMIT <= r <= LIMIT for r in ratios):
        raise ValueError(f"ratios of powers lie between 1/{LIMIT:g} and {LIMIT:g}, got {list(ratios)}")
    sweep = judge(denoiser, data, grid_of(bound.num_places, ratios), effort)
    for point in sweep:
        tell(line_of(point))
    best = min(sweep, key=lambda point: point.value)
    path, errors = learn(denoiser, data, bound, best.powers, iterations, effort, tell)
    powers = path[-1]
    start, final = judge(denoiser, data, [best.powers, powers], replace(effort, seed=mix(effort.seed, _FINAL_STREAM)))
    if final.value > start.value:
        tell(
            f"the search ended at powers {_words(powers)}, {final.value - start.value:.4f} nats/token above the best "
            f"point of the sweep, powers {_words(best.powers)}: take those, or search with a larger --batch"
        )
    edge = any(not 1.05 / LIMIT < power < LIMIT / 1.05 for power in powers)
    return Found(tuple(sweep), path, powers, errors, final, len(data.y0), edge)


def judge(denoiser: Denoiser, data: Data, grid: Sequence[tuple[float, ...]], effort: Effort) -> list[Point]:
    """Every point of a grid, and powers of 1, by the same random numbers."""

    def nats(powers: tuple[float, ...]) -> Tensor:
        quantity = Quantity("nelbo", "independent", data.steps, place_powers=powers)
        return estimate(denoiser, data.canvas, data.y0, data.task, quantity, effort, data.cond).nats

    even = nats((1.0,) * len(grid[0]))
    points = []
    for powers in grid:
        own = even if set(powers) == {1.0} else nats(powers)
        value, error = ratio(own, data.tokens)
        less, less_error = ratio(own - even, data.tokens)
        points.append(Point(powers, value, error or 0.0, less, less_error or 0.0))
    return points


def learn(
    denoiser: Denoiser,
    data: Data,
    bound: PlaceBound,
    start: tuple[float, ...],
    iterations: int,
    effort: Effort,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """Powers after each iteration, and the standard errors of the last ln p (0 where it is fixed)."""
    generator = generator_of(mix(effort.seed, _LEARN_STREAM, data.steps or 0))
    log_p = torch.tensor(start, dtype=torch.float64).log()
    free = torch.arange(len(start)) >= (data.steps is None and not bound.has_single)
    path: list[tuple[float, ...]] = []
    pool, error = _Pool(bound), torch.zeros_like(log_p)
    size = float(data.tokens.double().mean())
    for number in bar(range(iterations), "search", "iteration", effort.progress):
        rows = torch.randperm(len(data.y0), generator=generator)[: effort.batch]
        cond = None if data.cond is None else {name: value[rows] for name, value in data.cond.items()}
        pool.add(bound.draw(denoiser, data.y0[rows], log_p.exp(), generator, cond), log_p.exp())
        slope, curvature, slope_error = pool.derivatives(log_p)
        value, vectors = torch.linalg.eigh(curvature[free][:, free])
        value = value.abs().clamp(min=1e-6 * float(value.abs().max()) + 1e-12)
        invert = vectors @ torch.diag(1 / value) @ vectors.T
        step = -invert @ slope[free]
        log_p[free] += step * min(1.0, _LONGEST / float(step.norm().clamp(min=1e-12)))
        log_p.clamp_(-math.log(LIMIT), math.log(LIMIT))
        error[free] = (invert @ slope_error[free][:, free] @ invert).diagonal().sqrt()
        path.append(tuple(log_p.exp().tolist()))
        if (number + 1) % max(1, iterations // 10) == 0:
            steepness = float(slope[free].norm()) / size
            tell(f"iteration {number + 1:4d}  powers {_words(path[-1]):20} slope {steepness:.4f} nats/token")
    return tuple(path), tuple(error.tolist())


class _Pool:
    """All states so far as draws from the mixture of all proposals so far (balance heuristic)."""

    def __init__(self, bound: PlaceBound) -> None:
        self.bound = bound
        self.parts: list[States] = []
        self.proposals: list[Tensor] = []
        self.log_q = torch.zeros(0, 0, dtype=torch.float64)  # (states, proposals)

    def add(self, states: States, powers: Tensor) -> None:
        """A batch drawn at `powers`; all batches have one size, so the mixture weighs its proposals evenly."""
        old = [self.bound.log_proposal(part.hidden, powers) for part in self.parts]
        self.log_q = torch.cat([self.log_q, torch.cat(old)[:, None]], 1) if old else self.log_q.new_zeros(0, 1)
        new = [*(self.bound.log_proposal(states.hidden, other) for other in self.proposals), states.log_q]
        self.log_q = torch.cat([self.log_q, torch.stack(new, -1)])
        self.parts.append(states)
        self.proposals.append(powers)

    def derivatives(self, log_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slope (S,) and curvature (S, S) of the mean estimate in ln p, and the covariance (S, S) of the slope."""
        names = ("hidden", "nats", "count")
        hidden, nats, count = (torch.cat([getattr(part, name) for part in self.parts]) for name in names)
        states = States(hidden, nats, count, self.log_q.logsumexp(-1) - math.log(self.log_q.shape[1]))
        prices = self.bound.prices(states)
        slopes, curvature = [], torch.zeros(len(log_p), len(log_p), dtype=torch.float64)
        for rows in torch.arange(len(hidden)).split(_CHUNK):
            part = States(hidden[rows], nats[rows], count[rows], states.log_q[rows])
            point, each = log_p.clone().requires_grad_(), torch.ones(len(rows), dtype=log_p.dtype, requires_grad=True)
            estimate = self.bound.estimate(part, point.exp(), prices[rows])
            (total,) = torch.autograd.grad(estimate, point, each, create_graph=True)  # Σ_b each_b · slope of state b
            second = [torch.autograd.grad(of, (point, each), retain_graph=True) for of in total]
            curvature += torch.stack([row for row, _ in second]) / len(hidden)
            slopes.append(torch.stack([column for _, column in second], -1))
        slope = torch.cat(slopes)
        return slope.mean(0), curvature, slope.T.cov().reshape(curvature.shape) / len(slope)


def line_of(point: Point) -> str:
    """A line of the table of a sweep."""
    return (
        f"powers {_words(point.powers):20} {point.value:.4f} ± {point.stderr:.4f} nats/token   "
        f"minus powers of 1: {point.minus_even:+.4f} ± {point.minus_even_stderr:.4f}"
    )


def _words(powers: Sequence[float]) -> str:
    return ",".join(f"{power:.3g}" for power in powers)
