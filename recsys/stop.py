"""Ctrl-C and SIGTERM, as something that a job can end by: what is open is closed, and the exit code says which."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a user and a scheduler end a job with."""


class Stop:
    """Ctrl-C and SIGTERM end what is being done, at once or before the next of its parts; exit code 128 + signal."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._armed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, the signals are taken; outside of the main thread nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Within it, a signal ends what is being done; elsewhere it waits for :meth:`check`."""
        self.check()
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def check(self) -> None:
        """End the process if a signal has come.

        Raises:
            SystemExit: With 128 + signal.
        """
        if self._code is not None:
            raise SystemExit(self._code)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._code = 128 + number
        if self._armed:
            self._armed = False  # what is closed now shall not be disturbed by a second one
            raise SystemExit(self._code)
