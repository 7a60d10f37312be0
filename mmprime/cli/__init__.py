"""The command line: mmprime COMMAND ...; a command is loaded when it is called."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from mmprime import __version__

from . import console

COMMANDS = {
    "generate": "draw pictures, read captions, repaint a part, continue or fill a text",
    "train": "train what a config describes, or go on with it",
    "plan": "memory, time and cost of a training on so many devices, before it is started",
    "prepare": "make data sets, codes, tokenizers and codecs",
    "retrofit": "make a model folder of a text network that others trained",
    "evaluate": "measure a model: likelihood, samples, captions, text, tokenizer, calibration",
    "trace": "sample once and show how it came about",
    "report": "tables and figures of recorded rows and runs",
    "study": "run a grid of trainings and put them into one table",
    "demo": "the shipped model at work",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    typed = sys.argv[1:] if arguments is None else arguments
    parser = console.Parser(
        prog="mmprime",
        description="Masked discrete diffusion over the digits of tokens: text and image codes in one model.",
        epilog="commands:\n" + "\n".join(f"  {name:10} {about}" for name, about in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mmprime {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below; COMMAND --help")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="of the command")
    try:
        options = parser.parse_args(typed)
    except SystemExit as done:
        return int(done.code or 0)
    sys.argv = [f"mmprime {options.command}", *options.arguments]  # what the command sees, and says in its usage
    return int(import_module(f"mmprime.cli.{options.command}").main())
