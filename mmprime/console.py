"""What the command lines of tools/ share: one line on a mistake, exit code 2. Imports nothing heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_ASSETS = Path(__file__).resolve().parents[1] / "assets"
DEFAULT_MODEL = str(_ASSETS / "models/emoji_t2i")
DEFAULT_IMAGES = str(_ASSETS / "emoji")
PLANS = (
    "ancestral", "first_hitting", "nested", "token_synchronous", "coarse_first", "raster", "halton", "regions",
    "confidence", "margin", "entropy", "moment", "entropy_budget", "entropy_bounded", "klass", "threshold", "factor",
    "blocks", "remdm", "p2",
)  # fmt: skip
LAWS = ("independent", "nested", "token_synchronous")
ORDERS = ("raster", "reversed", "halton", "coarse_first")
ESTIMATORS = ("count", "time")
JOINT_LOSS_NOTE = (
    "joint_loss counts a whole token at the rate of one digit; with more than one digit a token it is no bound on the "
    "negative log-likelihood (two equal fair bits: 0.347 where the entropy is ln 2 = 0.693), so it has no perplexity"
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def run(command: Callable[[Any], None], options: Any) -> int:
    """Run a command: 0 when it succeeds, 2 and one line on stderr for what the user can mend."""
    try:
        command(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def positive(text: str) -> int:
    """An argparse type: a whole number >= 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def whole(text: str) -> int:
    """An argparse type: a whole number >= 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 0")
    return int(text)


def scale(text: str) -> float | dict[str, float]:
    """An argparse type: a guidance scale, "3", or one for each span, "image=3,text=1"."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [(name.strip(), float(value)) for name, value in (part.split("=") for part in text.split(","))]
        if len(dict(pairs)) == len(pairs):
            return dict(pairs)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor SPAN=NUMBER,SPAN=NUMBER, each span once")


def add_guidance_arguments(parser: Any, default: float | None, note: str = "") -> None:
    """--guidance and --guidance-schedule, the parts of a `Guidance`."""
    parser.add_argument(
        "--guidance", type=scale, default=default, metavar="SCALE",
        help=f"classifier-free guidance, 0 is off; image=3,text=1 for each span that is drawn{note}",
    )  # fmt: skip
    parser.add_argument(
        "--guidance-schedule", default="linear", metavar="SCHEDULE",
        help="constant, linear (default), power_cosine[:POWER] or interval:LO:HI, over the share that is visible",
    )  # fmt: skip


def list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """An argparse type: comma-separated values of a kind, at least one."""

    def parse(text: str) -> list[Any]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise argparse.ArgumentTypeError(f"{text!r} lists nothing")
        return [kind(part) for part in parts]

    return parse


numbers = list_of(positive)  # e.g. "4,16,64"
