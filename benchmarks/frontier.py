"""CPU seconds of training and of sampling of the cells of a study, in one run and in turns.

    python benchmarks/frontier.py benchmarks/studies/products.yaml --only patches     # 5 minutes of one core

The cells of a study are trained on whatever was there at the time; here each is built anew, takes a few steps of its
training and samples a batch at every T of the study, on the time grid that its T-step bounds are of. Seconds depend on
head, masks and passes and not on the weights, which stay as good as random. Each number is the least CPU time of the
repeats, after one that is not counted; training is the seconds of a step times the steps of the cell. Rows go to
NAME_seconds.json beside the study's table, from which `mmprime study frontier` prints and draws.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from mmprime.engine import MASK_ID, Schedule, masking_of
from mmprime.engine.samplers import Ancestral
from mmprime.evaluation import Measure, stamp
from mmprime.evaluation.provenance import versions
from mmprime.generation.sampling import SamplingConfig, sample_rows
from mmprime.studies.spec import Cell, Study
from mmprime.studies.store import read_results, write_results
from mmprime.training.build import build_trainer
from mmprime.training.config import load_config
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

BATCH = 32  # samples at once


@dataclass(frozen=True)
class Timed:
    """Cells that differ in the number of their steps only, and one of them that is built. steps: of sampling."""

    cells: list[Cell]
    trainer: Trainer
    steps: tuple[int, ...]
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    passes: dict[str, float] = field(default_factory=dict)

    def take(self, name: str, go: Callable[[], float], counts: bool) -> None:
        """Do it once; go returns the forward passes of an example."""
        start = time.process_time()
        self.passes[name] = go()
        if counts:
            self.seconds[name].append(time.process_time() - start)

    def train(self) -> float:
        """One optimizer step."""
        self.trainer.stepper(self.trainer.stop)
        return 0.0

    def sample(self, steps: int) -> float:
        """A batch in `steps` steps of the time grid."""
        task = self.trainer.task
        assert isinstance(task, DiffusionTask)
        task.modules.eval()
        powers = task.objective.level_powers
        schedule = Schedule.levels(powers, task.canvas) if powers else Schedule.linear()
        sampler = Ancestral(steps, schedule, masking_of(self.cells[0].masking))
        masked = torch.full((BATCH, task.canvas.num_subtokens), MASK_ID)
        return float(sample_rows(task.model, task.canvas, masked, SamplingConfig(sampler, steps)).nfe.double().mean())

    def rows(self, cell: Cell) -> list[Measure]:
        """Of one of the cells: seconds of its training and of a sample, by the number of steps."""
        steps, count = load_config(cell.config, cell.overrides).train.steps, len(self.seconds["training"])
        rows = [Measure("training", min(self.seconds["training"]) * steps, None, "CPU seconds", count, 0, cell.seed)]
        for name in (f"sampling T={number}" for number in self.steps):
            least, passes = min(self.seconds[name]) / BATCH, self.passes[name]
            rows.append(Measure(name, least, None, "CPU seconds/sample", count * BATCH, passes, cell.seed))
        return rows


def measure(timed: list[Timed], repeats: int) -> None:
    """In turns; the first round does not count and leaves out many steps."""
    for number in range(repeats + 1):
        print(f"{time.strftime('%H:%M:%S')} round {number} of {repeats}", flush=True)
        for each in timed:
            each.take("training", each.train, number > 0)
            for steps in each.steps:
                if number or steps <= 8:
                    each.take(f"sampling T={steps}", partial(each.sample, steps), number > 0)


def build(cells: list[Cell], study: Study, folder: str) -> list[Timed]:
    """One training of each kind; cells whose digits come from another training are left out."""
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if cell.digits_from is None:
            kind = cell.base, *(each for each in cell.overrides if not each.startswith("train.steps="))
            alike.setdefault(kind, []).append(cell)
    timed = []
    for number, some in enumerate(alike.values()):
        words = [*some[0].overrides, f"run.dir={folder}/{number}", "run.threads=1"]
        trainer = build_trainer(load_config(some[0].config, words))
        timed.append(Timed(some, trainer, study.evaluation(some[0].base).steps))
    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a YAML file, see benchmarks/studies/")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    study = Study.load(options.study)
    cells = [cell for cell in study.cells() if cell.seed == study.seeds[0] and options.only in cell.name]
    with tempfile.TemporaryDirectory() as folder:
        timed = build(cells, study, folder)
        measure(timed, options.repeats)
    command = shlex.join(["python", *sys.argv])
    rows = {c.group: stamp(each.rows(c), versions=versions(), command=command) for each in timed for c in each.cells}
    write_results(study.seconds, {**read_results(study.seconds), **rows})
    print(f"{len(rows)} cells in {study.seconds}")


if __name__ == "__main__":
    main()
