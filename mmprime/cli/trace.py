"""Draw once and show how it came about: what became known when, and how sure the model was of it.

    python tools/trace.py --prompt "a red apple" --out out/trace
        strip.png (a frame a step), film.gif, order.png (the step at which each digit became known, as a map)
    python tools/trace.py --model assets/models/sotu --prompt "The state of the" --out out/trace_text
        trace.html: a page with a slider of steps; also for a text with ___ to fill

Both write entropy.png (entropy and confidence along the steps) and trace.json (rank, entropy and confidence of every
digit). Needs matplotlib (the extra `plots`). Exit codes: 0 done, 2 a mistake in what was asked (one line, no file); all
of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import sys

from . import console
from . import tracing as trace


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trace.add_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = sys.argv[1:] if arguments is None else arguments

    def work() -> None:
        options = parse(typed)
        options.command_line = console.typed("trace", typed)
        trace.run(options)

    return console.run(work)


if __name__ == "__main__":
    raise SystemExit(main())
