"""The moment by which a process that is to end has ended, come what may."""

from __future__ import annotations

import os
import threading
import time

import structlog

from spear_wasm.logs import BATCH_SECONDS

log = structlog.get_logger()


class LastMoment:
    """Ends the process where it is still there at that moment.

    It has to be as safe as a kill at any moment, which it is: whatever is on disk is made for that. What hangs may
    be anything from a runtime of somebody else's to a disk that does not answer, so nothing is waited for.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def set(self, seconds: float) -> None:
        """From now on it is in so many seconds."""
        self.cancel()
        self._timer = threading.Timer(seconds, _end)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """There is none any more."""
        if self._timer is not None:
            self._timer.cancel()


def _end() -> None:
    log.critical("the server has not stopped in time; it ends as it is", pid=os.getpid())
    time.sleep(2 * BATCH_SECONDS)  # in which the log is written
    os._exit(1)
