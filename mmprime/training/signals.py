"""Ctrl-C, SIGTERM and a time limit as a wish to stop, granted between two steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BEGAN = time.monotonic()  # of the process, as good as


class StopRequest:
    """``signal`` is the number of the first signal that arrived while :meth:`listening`, or None.

    minutes: what the process may take, counted from its beginning; 0: as long as it likes.
    """

    def __init__(self, minutes: float = 0) -> None:
        self.signal: int | None = None
        self.deadline = BEGAN + 60 * minutes if minutes else math.inf

    @property
    def is_wanted(self) -> bool:
        """Whether a signal arrived or the time is over."""
        return self.signal is not None or time.monotonic() >= self.deadline

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block the first SIGINT or SIGTERM is noted; a second one acts as it did before.

        Outside the main thread Python allows no handlers, so nothing is noted there.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in old.items():
                signal.signal(number, handler)

        def note(number: int, _frame: FrameType | None) -> None:
            self.signal = number
            restore()

        for number in old:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()
