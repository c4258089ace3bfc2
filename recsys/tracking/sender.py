"""The thread that empties a journal while the job goes on.

A thread, and not a call with a time limit: a server that takes five seconds for each answer is slow for ever, and
no bound on one request keeps it from doubling the time of a fit. The job itself only ever writes to its own disk.
"""

import logging
import threading

from recsys.tracking.journal import Journal
from recsys.tracking.replay import replay

log = logging.getLogger(__name__)

RETRY_SECONDS = 20.0
"""Between attempts while the server is away."""
STOP_SECONDS = 2.0
"""That the end of a job waits for the thread; it ends at once unless a request hangs."""


class Sender:
    """Sends what is appended to a journal, tries again while the server is away, and says so once.

    Args:
        journal: Of this process.
        uri: Of the tracking server.
    """

    def __init__(self, journal: Journal, uri: str) -> None:
        self.journal = journal
        self.uri = uri
        self._reason: str | None = None
        self._asked = self._answered = 0
        self._news = False
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)  # no exit waits for a server
        self._thread.start()

    def wake(self) -> None:
        """Say that something has been appended."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def flush(self, seconds: float) -> str | None:
        """Have everything sent that was appended until now; return why something still waits, or None.

        Args:
            seconds: To wait for it at most.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            answered = self._changed.wait_for(lambda: self._answered >= mine or self._stopped.is_set(), seconds)
            return self._reason if answered else f"no answer within {seconds:.0f} seconds"

    def stop(self) -> None:
        """End the thread after the request that it is in, and give the journal back; a request that hangs is left."""
        self._stopped.set()
        self.wake()
        self._thread.join(STOP_SECONDS)

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                pause = RETRY_SECONDS if self._reason else None
                self._changed.wait_for(self._is_due, pause)
                asked, self._news = self._asked, False
            if not self._stopped.is_set():
                reason = replay(self.journal, self.uri, self._stopped)
                if not self._stopped.is_set():
                    self._tell(reason)
                with self._changed:
                    self._reason, self._answered = reason, asked
                    self._changed.notify_all()
        self.journal.discard()
        self.journal.close()

    def _is_due(self) -> bool:
        return self._stopped.is_set() or self._asked > self._answered or (self._news and self._reason is None)

    def _tell(self, reason: str | None) -> None:
        if reason and not self._reason:
            log.warning(
                "tracking server %s failed (%s); the job goes on, and what it logs waits in %s.",
                self.uri, reason, self.journal.folder,
            )  # fmt: skip
        elif self._reason and not reason:
            log.info("tracking server %s is back; nothing waits any more.", self.uri)
