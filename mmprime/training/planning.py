"""The page that ``mmprime plan`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmprime.evaluation.metric import markdown

from .config import load_config
from .distributed import choose_threads
from .hardware import Hardware, hardware_of
from .planner import PlannedStep, Planner
from .step_costs import StepCosts


@dataclass(frozen=True)
class Fleet:
    """So many devices of a kind; price: of one for an hour, None where there is no cost to show."""

    kind: str
    devices: int = 1
    price: float | None = None


def report(path: str, overrides: Sequence[str], fleet: Fleet, name: str) -> str:
    """What training a config on these devices would take; name: of the config, as it was typed.

    A config whose data are elsewhere (``data.path_env``) is planned at full size. Raises ValueError.
    """
    kind, devices, price = fleet.kind, fleet.devices, fleet.price
    config = load_config(path, overrides, elsewhere=True)
    if kind == "cpu":
        torch.set_num_threads(choose_threads(config.run.threads, config.run.dir)[0])
    hardware = hardware_of(kind)
    precision = config.run.precision
    half = precision == "bf16" or (precision == "auto" and kind != "cpu")
    costs = StepCosts(config, half, kind)
    planner = Planner(costs, hardware, devices)
    configured, chosen = planner.configured(), planner.chosen()
    columns = {"as configured": configured} if configured else {}
    if configured is None or chosen.spread != configured.spread:
        columns["chosen"] = chosen
    arithmetic = "bf16" if half else "float32"
    head = [
        f"{devices:,} x {hardware.name}, {arithmetic}, {planner.examples:,} examples a step, "
        f"{costs.canvas.num_tokens:,} tokens each",
        "",
    ]
    parts = ", ".join(f"{name} {count:,}" for name, count in costs.parameters.items() if count)
    head += [f"parameters: {costs.count:,} ({parts})", ""]
    rows = _rows(columns, config, planner, price)
    lines = [*head, markdown(["", *columns], rows, words=[0]), ""]
    if configured is None:
        lines += [
            f"as configured, with train.accumulate={config.train.accumulate}, {devices} devices cannot share a step"
        ]
    elif configured.peak > hardware.memory:
        lines += [f"as configured it does not fit into the {hardware.memory / 1e9:.0f} GB of a {hardware.name}"]
    return "\n".join([*lines, *_command([name, *overrides], hardware, devices, chosen)])


def _rows(columns: dict[str, PlannedStep], config: Any, planner: Planner, price: float | None) -> list[list[str]]:
    values = list(columns.values())
    rows = [[f"`{key}`", *(f"`{getattr(each.spread, name)}`" for each in values)] for key, name in _KEYS.items()]
    rows += [
        [f"{name}, GB", *(f"{each.memory.get(name, 0.0) / 1e9:.3g}" for each in values)]
        for name in dict.fromkeys(name for each in values for name in each.memory)
    ]
    rows += [["**memory of a device, GB**", *(f"{each.peak / 1e9:.3g}" for each in values)]]
    rows += [
        [f"{name}, ms a step", *(f"{1e3 * each.seconds[name]:.4g}" for each in values)] for name in values[0].seconds
    ]
    rows += [["**step, ms**", *(f"{1e3 * each.step:.4g}" for each in values)]]
    rate = planner.hardware.products["product", planner.costs.half] / planner.hardware.reached
    rows += [["MFU, %", *(f"{100 * each.flops / (each.step * rate):.1f}" for each in values)]]
    rows += [["samples a second", *(f"{planner.examples / each.step:,.4g}" for each in values)]]
    days = [each.step * config.train.steps / 86400 for each in values]
    rows += [[f"**days for {config.train.steps:,} steps**", *(f"{each:.3g}" for each in days)]]
    if price is not None:
        rows += [
            [f"cost at {price:g} a device and hour", *(f"{each * 24 * planner.devices * price:,.0f}" for each in days)]
        ]
    return rows


_KEYS = {
    "train.batch": "batch",
    "train.accumulate": "accumulate",
    "run.parallel": "parallel",
    "run.replicas": "replicas",
    "model.checkpointing": "checkpointing",
}


def _command(typed: list[str], hardware: Hardware, devices: int, chosen: PlannedStep) -> list[str]:
    if devices > 1:
        typed = [word for word in typed if word.partition("=")[0] not in _KEYS] + [chosen.spread.overrides()]
    words = " ".join(typed)
    if devices == 1:
        return [f"mmprime train {words}"]
    nodes = -(-devices // hardware.per_node)
    several = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint HOST:29500 " if nodes > 1 else ""
    return [f"torchrun {several}--nproc-per-node {min(devices, hardware.per_node)} -m mmprime train {words}"]
