"""Profile a few steps of a run: a chrome trace, and one page of where time, memory and FLOPs go.

Warm steps, then timed ones, then traced ones (tracing slows them down, so no time is taken there). Nothing of the run
is changed: no checkpoint, log line, sample or model is written, and the steps are forgotten.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from mmprime.evaluation.metric import markdown
from mmprime.io import whole_file, write_text

from .meters import PARTS, Meter, memory_peak, own_clock
from .step import NonFiniteLoss
from .trainer import Trainer

WARM, TIMED, TRACED = 3, 10, 2
TOP = 12  # operators listed


def profile_run(trainer: Trainer) -> Path:
    """Profile the next steps of a trainer; the folder of ``trace.json.gz`` and ``summary.md``, which process 0 writes.

    Raises NonFiniteLoss.
    """
    folder = trainer.directory / "profile"
    stepper, device = trainer.stepper, trainer.device
    stepper.meter = Meter(trainer.task.modules, device, own_clock(device.type))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    first = trainer.at.step
    _steps(trainer, WARM)
    stepper.meter.read(1.0)
    trainer.state.window.sums.clear()
    began = time.perf_counter()
    _steps(trainer, TIMED)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / TIMED
    peak = memory_peak(device)
    lines = [
        f"# Profile of {trainer.directory}\n",
        f"Steps {first + WARM + 1} to {first + WARM + TIMED} of task {trainer.task.name}, "
        f"{trainer.order.samples_per_step} examples each; "
        f"process 0 of {trainer.world.size}, on {_machine(device)}; torch {torch.__version__}; "
        f"{time.strftime('%Y-%m-%d')}.\n",
        *_numbers(trainer, seconds, peak),
        "",
        *_by_part(stepper.meter, trainer.product_rate(40)),
    ]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(TRACED):
            _steps(trainer, 1)
            profiler.step()
    if trainer.world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "trace.json.gz") as temporary:
            profiler.export_chrome_trace(str(temporary))
        write_text(folder / "summary.md", "\n".join([*lines, "", *_operators(profiler, device)]) + "\n")
    return folder


def _steps(trainer: Trainer, count: int) -> None:
    for _ in range(count):
        try:
            trainer.stepper(trainer.stop)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"step {trainer.at.step}: {error}; lower train.lr, or look at the batch") from error


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads of {platform.processor() or platform.machine()}"


def _numbers(trainer: Trainer, seconds: float, peak: float) -> list[str]:
    """One line a number of the whole step."""
    meter, samples = trainer.stepper.meter, trainer.order.samples_per_step
    rates = f"{samples / seconds:,.4g} samples a second"
    lines = [f"* {seconds * 1e3:,.1f} ms a step, {rates}"]
    if meter.denoiser is not None:
        tokens, flops = samples * meter.denoiser.canvas.num_tokens, sum(meter.flops.values()) / TIMED
        rate = trainer.product_rate(40)
        mfu = sum(meter.flops.values()) / (sum(meter.seconds.values()) * rate)
        lines[0] += f", {tokens / seconds:,.4g} tokens a second"
        lines.append(
            f"* MFU {100 * mfu:.1f} %: {flops / 1e9:,.4g} GFLOP of the model a step and process, of {rate / 1e9:,.0f} "
        )
        lines[-1] += "GFLOP/s that matrix products reach here in this precision"
    kind = "tensors on the GPU" if trainer.device.type == "cuda" else "resident set of the process"
    lines.append(f"* memory peak {peak:.2f} GiB ({kind})")
    wait = trainer.state.window.means().get("loader_wait_seconds")
    lines.append(
        f"* loader wait {'none: the examples are in memory' if wait is None else f'{1e3 * wait:.2f} ms a micro-batch'}"
    )
    return lines


def _by_part(meter: Meter, rate: float) -> list[str]:
    total = sum(meter.seconds.values())
    rows = []
    for part in PARTS:
        seconds, flops = meter.seconds[part], meter.flops.get(part, 0.0)
        if seconds:
            work = [f"{flops / TIMED / 1e9:,.4g}", f"{100 * flops / (seconds * rate):.1f}"] if flops else ["", ""]
            rows.append([part, f"{1e3 * seconds / TIMED:,.2f}", f"{100 * seconds / total:.1f}", *work])
    table = markdown(["part", "ms a step", "% of it", "GFLOP", "% of the product rate"], rows, words=[0])
    kind = "CPU seconds of the one thread" if meter.clock is time.process_time else "by the clock"
    return [table, "", f"Forward and backward, {kind}; `mmprime/training/meters.py` says what belongs to a part."]


def _operators(profiler: profile, device: torch.device) -> list[str]:
    """The operators that take most, by their own time."""
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = [
        event for event in profiler.key_averages() if getattr(event, name) and not event.key.startswith("Profiler")
    ]
    events.sort(key=lambda event: getattr(event, name), reverse=True)
    total = sum(getattr(event, name) for event in events) or 1.0
    rows = [
        [f"`{event.key}`", f"{event.count / TRACED:.0f}", f"{getattr(event, name) / TRACED / 1e3:,.2f}",
         f"{100 * getattr(event, name) / total:.1f}"]
        for event in events[:TOP]
    ]  # fmt: skip
    table = markdown(["operator", "calls a step", "own ms a step", "% of all"], rows, words=[0])
    return [f"Operators of {TRACED} more steps while traced (`trace.json.gz`: open in ui.perfetto.dev):\n", table]
