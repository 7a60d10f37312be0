"""What the commands share: options, checks, one way to end. Imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mmprime.io import is_hub_name

from .errors import DISK, DONE, INTERRUPTED, MISTAKE, explain, printable
from .output import kept_output

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = next((path for path in (PACKAGE.parent, Path.cwd()) if (path / "assets/models").is_dir()), PACKAGE.parent)
DEFAULT_MODEL = str(ROOT / "assets/models/emoji_t2i")  # in a checkout; the package alone holds no model
DEFAULT_IMAGES = str(ROOT / "assets/emoji")
DEFAULT_CODES = str(ROOT / "assets/emoji_codes")  # of these images


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {' '.join(printable(message).split())} (see --help)", file=sys.stderr)
        raise SystemExit(MISTAKE)


def run(work: Callable[[], Any]) -> int:
    """Do a command's work, reading its options included, and return its exit code (`mmprime.cli.errors`).

    Whatever ends it is one line on stderr. work: returns None, or an exit code of its own.
    """
    with kept_output() as out, _ctrl_c(out.flush) as pressed:
        try:
            code = work() or DONE
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else DONE if done.code is None else MISTAKE
        except BaseException as error:
            interrupted = pressed and not isinstance(error, KeyboardInterrupt)
            code, line = explain(KeyboardInterrupt() if interrupted else error)
            print(line if code == INTERRUPTED else f"error: {line}", file=sys.stderr)
        out.flush()
        if out.lost():
            print(f"warning: printing failed ({out.error}); what was asked to be in a file is there", file=sys.stderr)
            code = code or DISK
    return code


@contextmanager
def _ctrl_c(flush: Callable[[], object]) -> Iterator[list[int]]:
    """Ctrl-C raises KeyboardInterrupt once and is ignored from then on; the list tells whether it came, for a library
    may turn it into another error. During an import it ends the process at once: libraries swallow it there."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if _importing(frame):
            try:
                print(explain(KeyboardInterrupt())[1], file=sys.stderr, flush=True)
                flush()
            finally:
                os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    listening = usual is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if listening:
        signal.signal(signal.SIGINT, note)
    yield pressed
    if listening and not pressed:
        signal.signal(signal.SIGINT, usual)


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way between this frame and `run`."""
    while frame is not None and frame.f_code is not run.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


MOST = 10**9  # of a count: what is larger is a slip, and would end in a lack of memory


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 to `MOST`."""
    number = whole(text)
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"{text} must be at {'most ' + str(MOST) if number else 'least 1'}")
    return number


def whole(text: str) -> int:
    """An argparse type: a whole number from 0 to 2^63 - 1."""
    if not (text.isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def number_in(lowest: float, highest: float, open_ends: str = "") -> Callable[[str], float]:
    """An argparse type: a finite number between two; open_ends: "low", "high" or both: that end is left out."""
    ends = f"{'(' if 'low' in open_ends else '['}{lowest:g}, {highest:g}{')' if 'high' in open_ends else ']'}"

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        inside = lowest <= number <= highest and math.isfinite(number)
        if not inside or ("low" in open_ends and number == lowest) or ("high" in open_ends and number == highest):
            raise argparse.ArgumentTypeError(f"{text!r} is no number in {ends}")
        return number

    return parse


temperature = number_in(0, math.inf, "high")
share = number_in(0, 1, "high")
top_p = number_in(0, 1, "low")


def sentence(text: str) -> str:
    """An argparse type: text that is UTF-8."""
    if printable(text) != text:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no UTF-8; type it in a UTF-8 terminal")
    return text


def device(text: str) -> str:
    """An argparse type: the name of a device; whether there is one is asked when it is needed."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device; give cpu, cuda or cuda:0")
    return text


def folder(text: str) -> str:
    """An argparse type: a folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder" + ("" if Path(text).exists() else ": nothing is there"))
    return text


def existing(text: str) -> str:
    """An argparse type: a file or folder that is there."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return text


def out_file(text: str) -> str:
    """An argparse type: a file that can be written. Raises OSError on a disk that is read-only."""
    if not text or text.endswith("/") or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; give the name of a file")
    if Path(text).exists() and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no ordinary file; give another name")
    _require_writable(Path(text).parent)
    return text


def out_folder(text: str) -> str:
    """An argparse type: a folder that can be made or written into. Raises OSError on a disk that is read-only."""
    _require_writable(Path(text))
    return text


def _require_writable(path: Path) -> None:
    """Of a folder, or of the nearest one above it that exists."""
    above = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not above.is_dir():
        raise argparse.ArgumentTypeError(f"{above} is a file, so {path} cannot be a folder")
    if os.statvfs(above).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, "Read-only file system", str(path))
    if not os.access(above, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{above} does not let you write; give another place")


def typed(command: str, arguments: Sequence[str]) -> str:
    """The command line as it can be typed again, for records."""
    return printable(shlex.join(["mmprime", command, *arguments]))


def config_file(name: str) -> str:
    """A YAML file by its path, or one that ships by its name, such as emoji_t2i. Raises ValueError where none is."""
    if Path(name).exists():
        return name
    shipped = PACKAGE / "configs" / f"{name.removesuffix('.yaml').removeprefix('configs/')}.yaml"
    if not shipped.is_file():
        names = ", ".join(sorted(path.stem for path in shipped.parent.glob("*.yaml")))
        raise ValueError(f"CONFIG {name} does not exist" + (f"; those that ship: {names}" if names else ""))
    return str(shipped)


def scale(text: str) -> float | dict[str, float]:
    """An argparse type: a guidance scale, "3", or one for each span, "image=3,text=1"."""
    try:
        parts = [part.rpartition("=") for part in text.split(",")]
        pairs = [(name.strip(), float(value)) for name, _, value in parts]
        if all(math.isfinite(value) for _, value in pairs) and len(dict(pairs)) == len(pairs):
            if "=" not in text:
                return pairs[0][1]
            if all(name and "=" not in name for name, _ in pairs):
                return dict(pairs)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor SPAN=NUMBER,SPAN=NUMBER, each span once")


def add_guidance_arguments(parser: Any) -> None:
    """--guidance and --guidance-schedule, the parts of a `Guidance`."""
    parser.add_argument(
        "--guidance", type=scale, metavar="SCALE",
        help="classifier-free guidance, 0 is off; image=3,text=1 for each span that is sampled",
    )  # fmt: skip
    parser.add_argument(
        "--guidance-schedule", metavar="SCHEDULE",
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
        values = list_of(float)(text)
    except ValueError:
        values = [math.nan]
    if not all(0 < power < math.inf for power in values):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers > 0 such as 1,2.5")
    return values


def require_names(names: Iterable[str], known: Iterable[str], option: str) -> None:
    """Raises ValueError on a name that a registry has not."""
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{option}: unknown {name!r}; there are {', '.join(known)}")


def local_folder(name: str) -> str:
    """The path itself; for "user/name" that is no path here the folder to which the hub's files are fetched.

    Raises ValueError in one sentence on what the hub refuses.
    """
    if not is_hub_name(name):  # before anything heavy is imported
        return name
    from mmprime.models.folders import fetched

    return str(fetched(name))


def model_folder(name: str, option: str = "--model") -> str:
    """The `local_folder` of a model. Raises ValueError when there is none; option: what takes another."""
    local = local_folder(name)
    if (Path(local) / "config.json").is_file():
        return local
    if name == DEFAULT_MODEL:
        raise ValueError(f"the default model lies in a checkout of the repository, assets/models; give {option} DIR")
    raise ValueError(f"no model at {name} (no config.json there); train one or give another {option}")


def pretrained(text: str) -> str:
    """An argparse type: a folder that is there, or the `local_folder` of a name on the hub."""
    try:
        return folder(local_folder(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def require_path(path: str | None, option: str) -> None:
    """Raises ValueError when an option names a path where nothing is."""
    if path is not None and not Path(path).exists():
        raise ValueError(f"{option} {path} does not exist")
