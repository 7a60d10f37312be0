"""Place powers that minimise the NELBO of a trained model on held-out data: `tools/prepare.py schedule`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmprime.evaluation.place_search import Found
    from mmprime.evaluation.tasks import Task
    from mmprime.generation.pipeline import Pipeline


def find(options: argparse.Namespace) -> None:
    """Search, print every figure, and write the JSON if asked. Raises ValueError on what does not fit the model."""
    from mmprime.evaluation.datasets import data_of, hash_of, load_scored, splits_of
    from mmprime.evaluation.likelihood import Effort
    from mmprime.evaluation.place_search import Data, line_of, search
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.io import write_text

    pipe = from_pretrained(options.model)
    data = data_of(pipe, options.data)
    split, task = splits_of(data, options.split)[0], _task(pipe, options.task)
    scored = load_scored(pipe, data, split, options.limit, options.seed)
    effort = Effort(options.samples, options.seed, options.batch, progress=True)
    what = "continuous time" if options.steps is None else f"T = {options.steps}"
    unit = f"nats/token{scored.sizes.counted(task)}"
    heading = f"{split}: {task.name}, {len(scored.y0)} examples, {what}, {unit}"
    print(f"{heading}; alpha = 1 - t^power by digit place, coarse first")
    rows = Data(pipe.canvas, scored.y0, task, options.steps, scored.cond, scored.sizes)
    found = search(pipe.model, rows, options.iterations, effort, options.ratios, print)
    print("learned, judged on fresh random numbers:")
    print(line_of(found.final))
    spread = ", ".join(f"{error:.2f}" for error in found.log_powers_stderr)
    print(f"standard errors of the logarithms of the powers: {spread} (0 is fixed)")
    if found.final.minus_even > -2 * found.final.minus_even_stderr:
        print("not below the bound of powers of 1 by two standard errors: leave them, or give more --samples")
    if found.at_limit:
        print("a power ended at the limit: the optimum lies at one digit place wholly before another")
    powers = ",".join(f"{power:.4g}" for power in found.powers)
    print(f"train: objective.law=independent objective.place_powers=[{powers}]   score: --place-powers {powers}")
    if options.out:
        about = {"unit": unit, "split": split, "task": task.name, "steps": options.steps, "seed": options.seed}
        hashes = {"model_hash": pipe.weights[:16], "data_hash": hash_of(data)}
        write_text(options.out, json.dumps({**about, **hashes, **report(found)}, indent=1) + "\n")
        print(f"written: {options.out}")


def report(found: Found) -> dict[str, Any]:
    """What was found as JSON has it, in nats per token."""
    entries = asdict(found)
    return {"place_powers": entries.pop("powers"), **entries}


def _task(pipe: Pipeline, name: str | None) -> Task:
    """The task of that name; by default the first, a span given the others."""
    from mmprime.evaluation.tasks import choose, tasks

    return choose(tasks(pipe.canvas), None if name is None else [name])[0]
