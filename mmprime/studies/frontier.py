"""Bounds of a study's cells against seconds: what each costs, and the front that none of the others beats.

    training: the continuous bound, or that of T steps, against the CPU seconds of training
    sampling: the bound of T steps against the CPU seconds of a sample in T steps

A point is on the front where no point of fewer or equal seconds has a lower bound (Pareto). Bounds are means over the
seeds that all groups of a base have, so that they compare; seconds are those of one run of `benchmarks/frontier.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmprime.evaluation import Measure
from mmprime.evaluation.metric import markdown
from mmprime.evaluation.plots import Line

from .report import groups
from .spec import Study
from .store import read_results


@dataclass(frozen=True)
class Cost:
    """A group of cells at `steps` of sampling (None: continuous time): CPU seconds, its bound and that one's standard
    error in nats/token."""

    name: str
    steps: int | None
    seconds: float
    bound: float
    error: float | None = None


def training_costs(study: Study, base: str, steps: int | None = None) -> list[Cost]:
    """Of each group that is done and measured: its bound, continuous or of `steps`, for the seconds of its training."""
    return _costs(study, base, (steps,), "training")


def sampling_costs(study: Study, base: str) -> list[Cost]:
    """Of each group that is done and measured, at each number of steps: its bound for the seconds of a sample."""
    return _costs(study, base, study.evaluation(base).steps, "sampling T={steps}")


def front(costs: Sequence[Cost]) -> list[Cost]:
    """Those that none of fewer or equal seconds beats, the cheapest first."""
    best: list[Cost] = []
    for cost in sorted(costs, key=lambda cost: (cost.seconds, cost.bound)):
        if not best or cost.bound < best[-1].bound:
            best.append(cost)
    return best


def cost_table(costs: Sequence[Cost]) -> str:
    """Markdown, a line a point by its seconds. The last column: how many times the seconds of the cheapest point of the
    front whose bound is no higher."""
    best, lines = front(costs), []
    for cost in sorted(costs, key=lambda cost: cost.seconds):
        cheapest = next(other for other in best if other.bound <= cost.bound)
        error = "" if cost.error is None else f" ± {cost.error:.2f}"
        ratio = "front" if cheapest == cost else f"{cost.seconds / cheapest.seconds:.2f} x {cheapest.name}"
        lines.append([cost.name, f"{cost.seconds:,.0f}", f"{cost.bound:.2f}{error}", ratio])
    return markdown(["cell", "CPU seconds", "bound, nats/token", "seconds for no higher bound"], lines, words=[0, 3])


def budget_table(costs: Sequence[Cost]) -> str:
    """Markdown, a line a group: its lowest bound and the T of it within a tenth more than the seconds of a point of the
    front, in milliseconds, from one such point to the next that is lower by 1 %; the lowest of a column is bold."""
    budgets, last = [], math.inf
    for cost in front(costs):
        if cost.bound < 0.99 * last:
            budgets.append(_rounded_up(1.1 * cost.seconds))
            last = cost.bound
    lines = {name: [name] for name in dict.fromkeys(cost.name for cost in costs)}
    for budget in budgets:
        within = [cost for cost in costs if cost.seconds <= budget]
        lowest = min(cost.bound for cost in within)
        for name, line in lines.items():
            best = min((cost for cost in within if cost.name == name), key=lambda cost: cost.bound, default=None)
            text = "" if best is None else f"{best.bound:.2f} ({best.steps})"
            line.append(f"**{text}**" if best is not None and best.bound == lowest else text)
    return markdown(["cell", *(f"{1000 * budget:g} ms" for budget in budgets)], [*lines.values()], words=[0])


def _rounded_up(seconds: float) -> float:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / unit - 1e-9) * unit


def panel(costs: Sequence[Cost], title: str) -> tuple[str, str, list[Line], Line]:
    """Labels of both axes, a line a group and the front, as `mmprime.evaluation.plots.plot_fronts` takes them."""
    names = dict.fromkeys(cost.name for cost in costs)
    lines = [_line(name, [cost for cost in costs if cost.name == name]) for name in names]
    return f"{title}, CPU seconds", "bound, nats/token", lines, _line("front", front(costs))


def _line(label: str, costs: Sequence[Cost]) -> Line:
    return Line(label, [c.seconds for c in costs], [c.bound for c in costs], [c.error for c in costs])


def _costs(study: Study, base: str, steps: Sequence[int | None], metric: str) -> list[Cost]:
    """Raises ValueError where no seconds were measured."""
    seconds = read_results(study.seconds)
    if not seconds:
        raise ValueError(f"no seconds in {study.seconds}; python benchmarks/frontier.py STUDY measures them")
    measured = [(g, seconds.get(f"{base}-{g.name.replace(' · ', '-')}")) for g in groups(study, base)]
    seeds = set.intersection(*[set(group.runs) for group, rows in measured if rows] or [set()])
    span, costs = study.bases[base]["span"], []
    for group, rows in measured:
        spent = {row.metric: row.value for row in rows or ()}
        for count in steps:
            time = "continuous" if count is None else f"T={count}"
            bounds = group.values(f"nelbo {span} {time} {{masking}}")
            values, cost = [bounds[seed] for seed in seeds if seed in bounds], spent.get(metric.format(steps=count))
            if values and cost is not None:
                costs.append(Cost(group.name, count, cost, *_mean(values)))
    return costs


def _mean(rows: Sequence[Measure]) -> tuple[float, float | None]:
    """Over seeds with its standard error; of one seed that over examples."""
    values = torch.tensor([row.value for row in rows], dtype=torch.float64)
    return float(values.mean()), rows[0].stderr if len(rows) == 1 else float(values.std() / len(rows) ** 0.5)
