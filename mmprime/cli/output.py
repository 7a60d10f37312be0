"""Standard output that never ends a command: what cannot be encoded is replaced, what cannot be written is noted."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any


class Output:
    """A text stream that goes on after its reader has gone or its disk is full. `error`: the first failure, or None."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.error = stream, None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")

    error: OSError | None

    def write(self, text: str) -> int:
        """Write what can be written; returns the length of the text."""
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        self._attempt(self.stream.flush)

    def lost(self) -> bool:
        """Whether something was not written though somebody was there to read it."""
        return self.error is not None and self.error.errno != errno.EPIPE

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _attempt(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError, ValueError):  # what is buffered, and all that follows, goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


@contextmanager
def kept_output() -> Iterator[Output]:
    """Within the block stdout and stderr are `Output`; gives that of stdout."""
    out, error = (Output(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    with redirect_stdout(out), redirect_stderr(error):
        yield out
        out.flush()
        error.flush()
