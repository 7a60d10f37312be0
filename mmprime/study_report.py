"""The tables of a study: a line for each group of cells, mean ± standard error over its seeds.

A group is what differs in its seed only. Its difference to the first group is taken seed by seed, on the same examples
and random numbers, with the error over seeds. With one seed the error is that over examples, in pairs where the nats of
each example were kept; how much seeds differ is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmprime.evaluation import Measure
from mmprime.evaluation.plots import Line
from mmprime.study import Study
from mmprime.study_store import read_nats, read_table

FIDELITY = ("KID-EffNet-Lite0", "generative perplexity", "unigram entropy of a text")


@dataclass(frozen=True)
class Group:
    """A name without seed, the law it was trained on, and by seed the rows of its cells that are done, and the nats of
    each example behind them."""

    name: str
    law: str
    runs: dict[int, list[Measure]] = field(default_factory=dict)
    nats: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def values(self, start: str) -> dict[int, Measure]:
        """By seed: the first row whose metric starts so; "{law}" in it is the group's."""
        start = start.format(law=self.law)
        found = {
            seed: next((row for row in rows if row.metric.startswith(start)), None) for seed, rows in self.runs.items()
        }
        return {seed: row for seed, row in found.items() if row is not None}

    def gap(self, first: Group, start: str) -> tuple[float, float | None] | None:
        """The difference to `first` in per cent and its standard error, over the seeds that both have."""
        mine, theirs = self.values(start), first.values(start)
        common = [seed for seed in mine if seed in theirs]
        if not common:
            return None
        gaps = torch.tensor([100 * (mine[seed].value / theirs[seed].value - 1) for seed in common]).double()
        if len(gaps) > 1:
            return float(gaps.mean()), float(gaps.std() / len(gaps) ** 0.5)
        (seed,) = common
        own = self.nats.get(seed, {}).get(mine[seed].metric)
        other = first.nats.get(seed, {}).get(theirs[seed].metric)
        if own is None or other is None or own.shape != other.shape:
            return float(gaps[0]), None
        ratio = float(own.double().mean() / other.double().mean())
        errors = own.double() - ratio * other.double()
        return float(gaps[0]), 100 * float(errors.std() / len(errors) ** 0.5 / other.double().mean())


def groups(study: Study, base: str) -> list[Group]:
    """In the order of the study; those without a cell that is done are left out."""
    done, nats = read_table(study.results), read_nats(study.nats)
    found: dict[str, Group] = {}
    for cell in study.cells():
        if cell.base == base and cell.name in done:
            group = found.setdefault(cell.group, Group(" · ".join(cell.choices.values()), cell.law))
            group.runs[cell.seed] = done[cell.name]
            if cell.name in nats:
                group.nats[cell.seed] = nats[cell.name]
    return list(found.values())


def table(found: Sequence[Group], columns: Mapping[str, str], against: str | None = None) -> str:
    """Markdown. columns: heading -> start of a metric name. against: a heading of `columns` that is also shown as the
    difference to the first group in per cent of that group's mean."""
    head = ["cell", "seeds"]
    for heading in columns:
        head += [heading, f"{heading} against the first"] if heading == against else [heading]
    lines = [head]
    for group in found:
        cells = [group.name, str(len(group.runs))]
        for heading, start in columns.items():
            cells.append(_mean(group.values(start)))
            if heading == against:
                cells.append("" if group is found[0] else _difference(group.gap(found[0], start)))
        lines.append(cells)
    return _markdown(lines)


def gaps(study: Study, base: str) -> str:
    """Every bound of every group as its difference to the first group, in per cent, taken seed by seed."""
    found, columns = groups(study, base), _bounds(study, base)
    lines = [["cell", "seeds", *columns]]
    for group in found[1:]:
        differences = [_difference(group.gap(found[0], start)) for start in columns.values()]
        lines.append([group.name, str(len(group.runs)), *differences])
    return _markdown(lines) if found else ""


def bounds(study: Study, base: str) -> str:
    """NELBOs, joint loss, idle steps, CPU time of training and size."""
    found, steps = groups(study, base), study.judging(base).steps
    columns = {
        **_bounds(study, base),
        "joint loss (no bound)": f"joint_loss {study.bases[base]['span']}",
        **{f"idle at T = {count}": f"idle steps T={count} " for count in steps[-1:]},
        "CPU seconds": "training",
        "parameters": "parameters",
    }
    columns = {heading: start for heading, start in columns.items() if any(group.values(start) for group in found)}
    return table(found, columns, against="NELBO")


def _bounds(study: Study, base: str) -> dict[str, str]:
    """Heading -> start of a metric name: the bounds under the law trained on, then under the others asked for."""
    span, judging = study.bases[base]["span"], study.judging(base)
    return {
        "NELBO": f"nelbo {span} continuous {{law}}",
        **{law.replace("_", "-"): f"nelbo {span} continuous {law}" for law in judging.laws},
        **{f"T = {count}": f"nelbo {span} T={count} {{law}}" for count in judging.steps},
        **{
            f"T = {count} {law.replace('_', '-')}": f"nelbo {span} T={count} {law}"
            for law in judging.finite_laws
            for count in judging.steps
        },
    }


def gap_lines(study: Study, base: str) -> list[Line]:
    """T-step bounds of every group under its own law against T, as differences to the first group in per cent."""
    found, steps = groups(study, base), study.judging(base).steps
    lines = []
    for group in found[1:]:
        starts = {count: f"nelbo {study.bases[base]['span']} T={count} {{law}}" for count in steps}
        found_gaps = {count: group.gap(found[0], start) for count, start in starts.items()}
        known = {count: gap for count, gap in found_gaps.items() if gap is not None}
        means, errors = [gap[0] for gap in known.values()], [gap[1] for gap in known.values()]
        lines.append(Line(group.name, list(known), means, errors))
    return lines


def samples(study: Study, base: str) -> str:
    """What the samples are worth at each number of steps; empty where none were drawn."""
    found = groups(study, base)
    judging = study.judging(base)
    metrics = [name for name in FIDELITY if any(group.values(f"{name} in") for group in found)]
    columns = {
        f"{name}, {count} steps{by}": f"{name} in {count} steps{by}"
        for by in ("", *(f" by {sampler}" for sampler in judging.samplers))
        for name in metrics
        for count in judging.draw_steps
    }
    return table(found, columns) if columns else ""


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rest])


def _mean(rows: Mapping[int, Measure]) -> str:
    if not rows:
        return ""
    values = torch.tensor([row.value for row in rows.values()], dtype=torch.float64)
    if next(iter(rows.values())).unit in ("count", "CPU seconds"):
        return f"{float(values.mean()):,.0f}"
    return _with_error(values, next(iter(rows.values())).stderr)


def _difference(gap: tuple[float, float | None] | None) -> str:
    if gap is None:
        return ""
    mean, error = gap
    return f"{mean:+.1f}" + ("" if error is None else f" ± {error:.1f}") + " %"


def _with_error(values: torch.Tensor, alone: float | None) -> str:
    error = alone if len(values) == 1 else float(values.std() / len(values) ** 0.5)
    mean, decimals = float(values.mean()), 1 if float(values.abs().max()) >= 100 else 3
    return f"{mean:.{decimals}f}" + ("" if error is None else f" ± {error:.{decimals}f}")
