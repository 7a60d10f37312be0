"""Tables and figures from measured rows and training logs.

    mmprime report table ROWS... [--by metric|nfe] [--out FILE.md]
        rows of several files as one Markdown table, value ± standard error
    mmprime report agree OLD NEW [--within 3]
        were the same numbers measured again: files of rows, or folders of them, row by row in standard errors
    mmprime report card ROWS... --model DIR --note "2 CPU cores, 2026-11-26"
        the model card of a model folder: README.md with measured rows and the commands they come from
    mmprime report nfe ROWS... --metric NAME --out FILE.png
        quality against forward passes, a line a file and sampler
    mmprime report loss RUN_DIR... --out FILE.png
        training loss and validation NELBO against examples seen
    mmprime report calibration --model DIR --data DIR --out FILE.png [--json FILE]
        confidence of the model's predictions against how often they are right
    mmprime report schedule --model DIR --steps T --out FILE.png
        the schedule of every digit level the model was trained under, and its transitions at T steps

ROWS are files written by mmprime evaluate --json. Rows of different data, references or models are not joined.
Exit codes: 0 done, 2 a mistake in what was asked (one line); all of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import sys

from . import console
from . import reports as report


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    report.add_commands(parser.add_subparsers(dest="command", required=True))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = sys.argv[1:] if arguments is None else arguments

    def work() -> None:
        options = parse(typed)
        options.command_line = console.typed("report", typed)
        options.run(options)

    return console.run(work)


if __name__ == "__main__":
    raise SystemExit(main())
