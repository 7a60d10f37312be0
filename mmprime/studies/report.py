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

from .spec import Study
from .store import read_nats, read_results

FIDELITY = ("KID-EffNet-Lite0", "generative perplexity", "unigram entropy of a text")


@dataclass(frozen=True)
class Group:
    """A name without seed, the masking it was trained on, by seed the rows of its cells that are done and the nats of
    each example behind them."""

    name: str
    masking: str
    runs: dict[int, list[Measure]] = field(default_factory=dict)
    nats: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def values(self, start: str) -> dict[int, Measure]:
        """By seed: the first row whose metric starts so; "{masking}" in it is the group's, under its own level powers
        where it has some."""
        alone = start.format(masking=self.masking)
        starts = [f"{alone} levels ", alone] if "{masking}" in start else [alone]
        rows_by_seed = {
            seed: next((row for words in starts for row in rows if row.metric.startswith(words)), None)
            for seed, rows in self.runs.items()
        }
        return {seed: row for seed, row in rows_by_seed.items() if row is not None}

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
        my_nats = self.nats.get(seed, {}).get(mine[seed].metric)
        their_nats = first.nats.get(seed, {}).get(theirs[seed].metric)
        if my_nats is None or their_nats is None or my_nats.shape != their_nats.shape:
            return float(gaps[0]), None
        ratio = float(my_nats.double().mean() / their_nats.double().mean())
        errors = my_nats.double() - ratio * their_nats.double()
        return float(gaps[0]), 100 * float(errors.std() / len(errors) ** 0.5 / their_nats.double().mean())


def groups(study: Study, base: str) -> list[Group]:
    """In the order of the study, `study.first` before all; those without a cell that is done are left out."""
    done, nats = read_results(study.results), read_nats(study.nats)
    by_name: dict[str, Group] = {}
    for cell in study.cells():
        if cell.base == base and cell.name in done:
            group = by_name.setdefault(cell.group, Group(" · ".join(cell.choices.values()), cell.masking))
            group.runs[cell.seed] = done[cell.name]
            if cell.name in nats:
                group.nats[cell.seed] = nats[cell.name]
    return sorted(by_name.values(), key=lambda group: group.name != study.first)


def group_table(compared: Sequence[Group], columns: Mapping[str, str], against: str | None = None) -> str:
    """Markdown. columns: heading -> start of a metric name. against: a heading of `columns` that is also shown as the
    difference to the first group in per cent of that group's mean."""
    head = ["cell", "seeds"]
    for heading in columns:
        head += [heading, f"{heading} against the first"] if heading == against else [heading]
    lines = [head]
    for group in compared:
        cells = [group.name, str(len(group.runs))]
        for heading, start in columns.items():
            cells.append(_mean(group.values(start)))
            if heading == against:
                cells.append("" if group is compared[0] else _difference(group.gap(compared[0], start)))
        lines.append(cells)
    return _markdown(lines)


def gaps(study: Study, base: str) -> str:
    """Every bound of every group as its difference to the first group, in per cent, taken seed by seed."""
    compared, columns = groups(study, base), _bounds(study, base)
    lines = [["cell", "seeds", *columns]]
    for group in compared[1:]:
        differences = [_difference(group.gap(compared[0], start)) for start in columns.values()]
        lines.append([group.name, str(len(group.runs)), *differences])
    return _markdown(lines) if compared else ""


def bounds(study: Study, base: str) -> str:
    """NELBOs, joint loss, idle steps, CPU time of training and size."""
    compared, steps = groups(study, base), study.evaluation(base).steps
    columns = {
        **_bounds(study, base),
        "joint loss (no bound)": f"joint_loss {study.bases[base]['span']}",
        **{f"idle at T = {count}": f"idle steps T={count} " for count in steps[-1:]},
        "CPU seconds": "training",
        "parameters": "parameters",
    }
    columns = {heading: start for heading, start in columns.items() if any(group.values(start) for group in compared)}
    return group_table(compared, columns, against="NELBO")


def _bounds(study: Study, base: str) -> dict[str, str]:
    """Heading -> start of a metric name: the bounds under the masking trained on, then under the others asked for."""
    span, asked = study.bases[base]["span"], study.evaluation(base)
    return {
        "NELBO": f"nelbo {span} continuous {{masking}}",
        **{name.replace("_", "-"): f"nelbo {span} continuous {name}" for name in asked.maskings},
        **{f"T = {count}": f"nelbo {span} T={count} {{masking}}" for count in asked.steps},
        **{
            f"T = {count} {name.replace('_', '-')}": f"nelbo {span} T={count} {name}"
            for name in asked.finite
            for count in asked.steps
        },
    }


def gap_lines(study: Study, base: str) -> list[Line]:
    """T-step bounds of every group under its own masking against T, as differences to the first group in per cent."""
    compared, steps = groups(study, base), study.evaluation(base).steps
    lines = []
    for group in compared[1:]:
        starts = {count: f"nelbo {study.bases[base]['span']} T={count} {{masking}}" for count in steps}
        gaps_by_steps = {count: group.gap(compared[0], start) for count, start in starts.items()}
        known = {count: gap for count, gap in gaps_by_steps.items() if gap is not None}
        means, errors = [gap[0] for gap in known.values()], [gap[1] for gap in known.values()]
        lines.append(Line(group.name, list(known), means, errors))
    return lines


def samples(study: Study, base: str) -> str:
    """What the samples are worth at each number of steps; empty where none were drawn."""
    compared = groups(study, base)
    asked = study.evaluation(base)
    metrics = [name for name in FIDELITY if any(group.values(f"{name} in") for group in compared)]
    columns = {
        f"{name}, {count} steps{by}": f"{name} in {count} steps{by}"
        for by in ("", *(f" by {sampler}" for sampler in asked.samplers))
        for name in metrics
        for count in asked.sampling_steps
    }
    return group_table(compared, columns) if columns else ""


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
