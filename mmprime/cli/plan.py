"""Say what a training would take before it is started: mmprime plan CONFIG [key=value ...] --gpus 8 --kind H100

Parameters, memory of a device by part, seconds a step, days and cost, as the config has it and as it would be spread
best over the devices. Nothing is trained and no data are read but their index.
"""

from __future__ import annotations

import argparse

from . import console


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description="Parameters, memory, time and cost of a training before it is started.")
    parser.add_argument("config", help="a YAML file, or the name of one that ships, such as imagenet_vq")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. model.preset=XL train.steps=100000")
    parser.add_argument("--gpus", type=console.positive, default=1, metavar="N", help="devices, default 1")
    parser.add_argument(
        "--kind", default="H100", metavar="KIND", help="A100, H100, H200, B200, or cpu: this machine, measured"
    )
    parser.add_argument(
        "--price", type=console.number_in(0, 1e6), metavar="DOLLARS", help="of a device for an hour, to have the cost"
    )
    return parser.parse_intermixed_args(arguments)


def plan(options: argparse.Namespace) -> None:
    """Print the plan. Raises ValueError for a mistake in options or config, and where nothing fits."""
    path = console.config_file(options.config)
    from mmprime.training import planning

    fleet = planning.Fleet(options.kind, options.gpus, options.price)
    print(planning.report(path, options.overrides, fleet, options.config))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(lambda: plan(parse(arguments)))
