"""Two processes of one training (torchrun, DDP over gloo) beside two trainings on their own at the same time.

    python benchmarks/two_processes.py configs/emoji_t2i.yaml --steps 60 run.precision=fp32

The pair shares two micro-batches a step, so a process has the same work in both. In turns, `--repeats` times; samples a
second are the medians of log lines after the second. Efficiency: samples a second of the pair over the sum of the two.
It needs two free cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path


def rate(folder: Path) -> float:
    """Samples a second of a run, by its log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return statistics.median([line["samples_per_second"] for line in lines if line["kind"] == "train"][2:])


def train(folder: Path, processes: int, overrides: list[str]) -> subprocess.Popen[bytes]:
    """Start a training; its words go to a file beside its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    many = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *many, "-m", "mmprime", "train", *overrides, f"run.dir={folder}"]
    with folder.with_suffix(".txt").open("wb") as words:
        return subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT)


def finish(runs: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait for all; raises RuntimeError where one failed."""
    for run in runs:
        if run.wait():
            raise RuntimeError(f"a training failed; what it said is in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("out/two_processes"))
    options = parser.parse_intermixed_args()
    never = ["train.validate_every=0", "train.samples_every=0", "train.save_every=0"]
    fixed = [f"train.steps={options.steps}", f"train.log_every={max(1, options.steps // 6)}", "run.threads=1", *never]
    given = [options.config, *options.overrides, *fixed]
    print("| repeat | two on their own, samples/s | the pair, samples/s | efficiency |\n|---|---|---|---|", flush=True)
    for repeat in range(options.repeats):
        folders = [options.folder / f"alone_{n}" for n in range(2)]
        finish([train(folder, 1, given) for folder in folders], options.folder)
        pair = options.folder / "pair"
        finish([train(pair, 2, [*given, "train.accumulate=2"])], options.folder)
        alone, together = [rate(folder) for folder in folders], rate(pair)
        words = " + ".join(f"{value:.1f}" for value in alone)
        print(f"| {repeat} | {words} | {together:.1f} | {together / sum(alone):.3f} |", flush=True)


if __name__ == "__main__":
    main()
