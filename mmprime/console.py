"""What the command lines of tools/ share: one line on a mistake, exit code 2. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

_ASSETS = Path(__file__).resolve().parents[1] / "assets"
DEFAULT_MODEL = str(_ASSETS / "models/emoji_t2i")
DEFAULT_IMAGES = str(_ASSETS / "emoji")
DEFAULT_CODES = str(_ASSETS / "emoji_codes")  # of these images
PLANS = (
    "ancestral", "first_hitting", "nested", "token_synchronous", "coarse_first", "raster", "halton", "regions",
    "confidence", "margin", "entropy", "moment", "entropy_budget", "entropy_bounded", "klass", "threshold", "factor",
    "blocks", "mixture", "remdm", "p2", "corrector",
)  # fmt: skip
LAWS = ("independent", "nested", "token_synchronous", "coarse_first")
ORDERS = ("raster", "reversed", "halton", "coarse_first")
ESTIMATORS = ("count", "time")
JOINT_LOSS_NOTE = (
    "joint_loss counts a whole token at the rate of one digit; with more than one digit a token it is no bound on the "
    "negative log-likelihood (two equal fair bits: 0.347 where the entropy is ln 2 = 0.693), so it has no perplexity"
)
IMAGE_GUIDANCE = 3.0
Item = TypeVar("Item")


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


def bar(items: Iterable[Item], what: str, unit: str, shown: bool = True, total: int | None = None) -> Iterable[Item]:
    """The items, with a progress bar on a terminal while they last; a file that catches stderr gets none."""
    from tqdm import tqdm

    return tqdm(items, desc=what, unit=unit, total=total, leave=False, disable=None if shown else True)


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


def powers(text: str) -> list[float]:
    """An argparse type: numbers > 0, e.g. "1,2.5"."""
    try:
        found = list_of(float)(text)
    except ValueError:
        found = [math.nan]
    if not all(0 < power < math.inf for power in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers > 0 such as 1,2.5")
    return found


# ---------------------------------------------------------------- how to sample


def add_sampling(how: argparse._ArgumentGroup, num: int) -> None:
    """The options of every tool that draws; num: how many by default."""
    how.add_argument("--num", type=positive, default=num, help=f"how many (default {num})")
    how.add_argument("--steps", type=positive, help="forward steps (default 16; for continuing a text 64)")
    add_guidance_arguments(how, None, "; default 3 for pictures")
    how.add_argument(
        "--sampler", "--plan", dest="sampler", nargs="+", metavar=("NAME", "key=value"),
        help="order of revealing and its options (default: as the model was trained); --sampler list prints them all",
    )  # fmt: skip
    how.add_argument("--seed", type=whole, default=0)
    how.add_argument("--temperature", type=float, default=1.0)
    how.add_argument("--top-p", type=float, default=1.0)
    how.add_argument("--new-tokens", type=positive, help="length of a continuation (default: what fits)")
    how.add_argument("--blank-tokens", type=positive, default=4, help="tokens for each ___ (default 4)")


def draw_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_sampling` as arguments of `mmprime.drawing.Draw`, all but steps, whose default depends on the
    model. Raises ValueError as `parse_sampler` does."""
    name, settings = parse_sampler(options.sampler)
    from mmprime.engine import Guidance

    shared = {key: getattr(options, key) for key in ("temperature", "top_p", "seed")}
    guidance = None if options.guidance is None else Guidance(options.guidance, options.guidance_schedule)
    return {"plan": name, "options": settings, "guidance": guidance, **shared}


def parse_sampler(words: list[str] | None) -> tuple[str | None, dict[str, str]]:
    """["remdm", "eta=0.3"] -> its name and options. Raises ValueError on an unknown name or a word without =."""
    if not words:
        return None, {}
    name, *rest = words
    if name not in PLANS:
        raise ValueError(f"unknown sampler {name!r}; --sampler list prints them")
    for word in rest:
        if "=" not in word:
            raise ValueError(f"--sampler {name}: {word!r} is not key=value")
    return name, dict(word.split("=", 1) for word in rest)


def warn(message: str | None) -> None:
    """Print a warning, if there is one, to stderr."""
    if message:
        print(f"warning: {message}", file=sys.stderr)


def require_model(directory: str) -> None:
    """Raises ValueError when there is no model folder."""
    if not (Path(directory) / "config.json").is_file():
        raise ValueError(f"no model at {directory} (no config.json there); train one or give another --model")
