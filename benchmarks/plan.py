"""`mmprime plan --kind cpu` beside the steps that it plans: parameters, memory, time of three trainings.

    python benchmarks/plan.py [--steps 6 --json rows.json]        # 3 to 10 minutes of one core, by what else runs there

Each training runs in a process of its own, on one thread. Seconds are those of the process on its CPU (others may be
running), the least of the steps after two that are not counted; rates of the machine are measured right after them.
Memory is what torch had allocated at most in the first two steps, by its profiler, with weights and averages, which
were there before; beside it the growth of the peak of resident memory with these (Linux). The third training is a chain
over 18 bits, 2^18 codes, on random digits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cost import peak_resident
from torch.profiler import ProfilerActivity, profile

from mmprime.evaluation.metric import markdown
from mmprime.training.build import build_task
from mmprime.training.config import load_config
from mmprime.training.corpus import Corpus
from mmprime.training.examples import Examples
from mmprime.training.hardware import measured_cpu
from mmprime.training.model import build_canvas, build_model
from mmprime.training.planner import Planner
from mmprime.training.step_costs import StepCosts
from mmprime.training.task import Task
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

BITS = 18
SMALL = ("run.precision=fp32", "model.preset=tiny", "model.checkpointing=none", "data.grid=[8, 8]", "data.labels=false")
CASES = {
    "emoji_t2i": ("emoji_t2i", ()),
    "text_sotu": ("text_sotu", ()),
    "imagenet_bits, tiny, 8 x 8": ("imagenet_bits", (*SMALL, "train.batch=16", "train.accumulate=1")),
}


def task_of(config: Any) -> Task:
    """The training's task; random digits where its data are elsewhere."""
    if not config.data.path_env:
        return build_task(config)
    digits = torch.randint(2, (256, 64, BITS), generator=torch.Generator().manual_seed(0)).int()
    corpus = Corpus(
        Examples({"image": digits}),
        {},
        {"image": 2**BITS},
        {"image": (8, 8)},
        None,
        None,
        "",
        radices={"image": (2,) * BITS},
    )
    canvas = build_canvas(corpus, config.model.codec)
    return DiffusionTask(config, corpus, canvas, build_model(canvas, config.model))


def measure(case: str, steps: int) -> dict[str, float]:
    """Parameters, bytes and seconds, measured and planned."""
    name, overrides = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(f"configs/{name}.yaml", [*overrides, f"run.dir={folder}", "run.threads=1"], elsewhere=True)
        trainer = Trainer(task_of(config), config)
        weights = sum(p.numel() for p in trainer.task.modules.parameters())
        Path("/proc/self/clear_refs").write_text("5")
        before, seconds = peak_resident(), []
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            for _ in range(2):
                trainer.stepper(trainer.stop)
        for _ in range(steps):
            began = time.process_time()
            trainer.stepper(trainer.stop)
            seconds.append(time.process_time() - began)
        resident = (peak_resident() - before) * 2**20 + 8 * weights
    hardware = measured_cpu()
    costs = StepCosts(config, config.run.precision == "bf16")
    planned = Planner(costs, hardware, 1).configured()
    assert planned is not None
    found = {"parameters": weights, "bytes": 8 * weights + _allocated(profiler), "seconds": min(seconds)}
    return found | {
        "resident": resident,
        "planned parameters": costs.count,
        "planned bytes": planned.peak,
        "planned seconds": planned.step,
        "product rate": hardware.products["product", costs.half],
    }


def _allocated(profiler: profile) -> int:
    """The most bytes that were allocated and not freed at once."""
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    return max(itertools.accumulate(size for _, size in changes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case:
        print(json.dumps(measure(options.case, options.steps)))
        return
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found, rows = {}, []
    for case in CASES:
        words = [sys.executable, __file__, "--case", case, "--steps", str(options.steps)]
        done = subprocess.run(words, env=plain, capture_output=True, text=True, check=True)
        row = found[case] = json.loads(done.stdout.splitlines()[-1])
        cells = [f"{row['parameters']:,}", f"{row['planned parameters']:,}"]
        for key, scale in (("bytes", 2**-20), ("seconds", 1e3)):
            ratio = row[f"planned {key}"] / row[key]
            cells += [f"{row[key] * scale:.0f}", f"{row[f'planned {key}'] * scale:.0f} ({ratio:.2f})"]
        rows.append([case, *cells, f"{row['resident'] * 2**-20:.0f}", f"{row['product rate'] / 1e9:.0f}"])
    head = ["training", "parameters", "planned", "MiB", "planned", "ms a step", "planned", "MiB resident", "GFLOP/s"]
    print(markdown(head, rows, words=[0]))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
