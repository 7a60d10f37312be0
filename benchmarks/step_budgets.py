"""Bounds of planned samplers by the model of a trained cell of a study, in pairs with other cells' bounds.

    python benchmarks/step_budgets.py benchmarks/studies/products.yaml "patches-coarse first factored-s0" \\
        --against "patches-digits apart factored-s0" "coarse_first steps=8 budget=7,1"    # 3 s a sampler

A cell is measured by its averaged weights on the examples and with the effort of its study, so that differences to the
T-step bounds in the study's table, T the steps of the sampler, are taken on the same examples. The cell must be trained
(`mmprime study run STUDY --only CELL`); it is not trained further.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from mmprime.engine.samplers import Planned, sampler_from_words, sampler_words
from mmprime.evaluation.likelihood import Effort, Estimate, ScoredRows, estimate
from mmprime.evaluation.metric import markdown
from mmprime.evaluation.quantities import Quantity
from mmprime.evaluation.tasks import evaluation_tasks
from mmprime.studies.spec import Cell, Study
from mmprime.studies.store import read_nats
from mmprime.training.build import build_trainer
from mmprime.training.config import load_config
from mmprime.training.tasks.diffusion import DiffusionTask


@torch.no_grad()
def bounds(study: Study, cell: Cell, samplers: list[Planned]) -> list[tuple[Quantity, Estimate]]:
    """Of each sampler in its own steps, by the cell's averaged weights."""
    folder = study.directory / "cells" / cell.name
    words = [*cell.overrides, f"run.dir={folder}", f"run.seed={cell.seed}", "run.threads=1", "run.resume=must"]
    trainer = build_trainer(load_config(cell.config, words))
    task, asked = trainer.task, study.evaluation(cell.base)
    assert isinstance(task, DiffusionTask), "cells are diffusion tasks"
    examples = next(iter(task.corpus.validation.values()))
    codes = {name: values[: asked.limit].long() for name, values in examples.codes.items()}
    rows, (view, *_) = ScoredRows(task.canvas.pack(codes)), evaluation_tasks(task.canvas, ())
    task.modules.eval()
    effort, masking, found = Effort(asked.samples, asked.seed), task.objective.masking, []
    with trainer.ema.swapped_in():
        for sampler in samplers:
            quantity = Quantity("nelbo", masking, sampler.steps, sampler=sampler)
            found.append((quantity, estimate(task.model, task.canvas, rows, view, quantity, effort)))
    return found


def difference(nats: Tensor, others: Tensor | None) -> str:
    """Of the mean of nats (n,) to that of others, in per cent and in pairs of examples; empty where there are none."""
    if others is None:
        return ""
    ratio = float(nats.mean() / others.double().mean())
    errors = nats - ratio * others.double()
    return f"{100 * (ratio - 1):+.1f} ± {100 * float(errors.std() / len(errors) ** 0.5 / others.double().mean()):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a YAML file, see benchmarks/studies/")
    parser.add_argument("cell", help="the name of a trained cell")
    parser.add_argument("samplers", nargs="+", help='planned samplers in words: "coarse_first steps=8 budget=7,1"')
    parser.add_argument(
        "--against", action="append", default=[], metavar="CELL", help="compare with this cell's bounds"
    )
    options = parser.parse_args()
    study = Study.load(options.study)
    cells = {cell.name: cell for cell in study.cells()}
    if unknown := [name for name in (options.cell, *options.against) if name not in cells]:
        parser.error(f"no cell {unknown[0]!r} in {options.study}")
    if not (study.directory / "cells" / options.cell).is_dir():
        parser.error(f"{options.cell} is not trained; mmprime study run {options.study} --only {options.cell!r}")
    samplers = [sampler_from_words(words.split()) for words in options.samplers]
    cell, span = cells[options.cell], study.bases[cells[options.cell].base]["span"]
    lines, first, kept = [], {}, read_nats(study.nats)
    for quantity, estimated in bounds(study, cell, samplers):
        value, error = estimated.per_token
        gaps = [difference(estimated.nats, first.setdefault(quantity.steps, estimated.nats))]
        for other in (cells[name] for name in options.against):
            theirs = kept.get(other.name, {}).get(f"nelbo {span} T={quantity.steps} {other.masking}")
            gaps.append(difference(estimated.nats, theirs))
        lines.append([str(quantity.steps), sampler_words(quantity.sampler), f"{value:.3f} ± {error:.3f}", *gaps])
    against = ["against the first of T", *(f"against {name}" for name in options.against)]
    print(markdown(["T", "sampler", "bound, nats/token", *against], lines, words=[1]))


if __name__ == "__main__":
    main()
