"""One line and one exit code for each kind of error; whatever is not of a known kind is a bug and says so.

code  meaning
0     done
1     a bug, or a loss, gradient or check that is not as it must be, or another process of the run has ended
2     a mistake in what was asked: options, files, data, memory, a device or package that is not there
3     the disk is full or read-only
75    a training run came to run.time_limit and has saved: the same command continues
130   stopped by Ctrl-C (a training run saves first)
143   stopped by SIGTERM (a training run saves first)
"""

from __future__ import annotations

import errno
import tempfile
import traceback
from typing import NamedTuple

DONE, BUG, MISTAKE, DISK, REQUEUE, INTERRUPTED = 0, 1, 2, 3, 75, 130
_DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)
_DISK_WORDS = (
    "No space left on device", "StorageFull", "Read-only file system", "Disk quota exceeded", "File too large",
)  # fmt: skip
_PEER_WORDS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
_MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory")
_MEMORY = ("MemoryError", "OutOfMemoryError")
# class names, so that nothing is imported to compare with: whoever raised one of these has imported it
_KNOWN = (
    "ValueError", "OSError", "SafetensorError", "YAMLError", "OmegaConfBaseException", "BadZipFile", "TarError",
    "DecompressionBombError", "RunBusy", "EOFError", "zlib.error", "ArgumentTypeError",
)  # fmt: skip
_STOPPED = ("NonFiniteLoss",)


class Ending(NamedTuple):
    """How a command ends: its exit code and the line that says why."""

    code: int
    line: str


def explain(error: BaseException) -> Ending:
    """The ending of a command that raised `error`. Writes the traceback of an unknown kind to a file."""
    kinds = {name for kind in type(error).__mro__ for name in (kind.__name__, f"{kind.__module__}.{kind.__name__}")}
    text = " ".join(printable(str(error)).split())
    if isinstance(error, KeyboardInterrupt):
        return Ending(INTERRUPTED, text or "stopped by Ctrl-C")
    if getattr(error, "errno", None) in _DISK_ERRORS or any(word in text for word in _DISK_WORDS):
        return Ending(DISK, f"{text}; free some space or write to another place, then give the same command again")
    if kinds & set(_MEMORY) or (isinstance(error, RuntimeError) and any(w in text.lower() for w in _MEMORY_WORDS)):
        return Ending(
            MISTAKE, f"out of memory; ask for fewer or smaller examples at a time ({text[:200] or 'no more'})"
        )
    if isinstance(error, RuntimeError) and any(word in text for word in _PEER_WORDS):
        return Ending(
            BUG, f"another process of this run has ended, see what it said; the same command goes on ({text[:200]})"
        )
    if isinstance(error, RecursionError):
        return Ending(MISTAKE, f"a file is nested too deeply to be read ({text})")
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("mmprime"):
        return Ending(MISTAKE, f"the package {error.name} is missing; install it with pip")
    if kinds & set(_STOPPED):
        return Ending(BUG, text)
    if isinstance(error, UnicodeDecodeError):
        return Ending(MISTAKE, f"a file is not UTF-8: {text}")
    if kinds & set(_KNOWN):
        return Ending(MISTAKE, text or type(error).__name__)
    return Ending(BUG, f"{type(error).__name__}: {text[:300]}; this is a bug of mmprime, details are in {_keep(error)}")


def printable(text: str) -> str:
    """The text with what is no UTF-8 (lone surrogates, as of undecodable arguments) as escapes.

    >>> printable("a\\udcff")
    'a\\\\udcff'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _keep(error: BaseException) -> str:
    """The name of the file that holds the traceback; the traceback itself where no file can be written."""
    lines = printable("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="mmprime-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(lines)
            return file.name
    except OSError:
        return lines
