"""The clock of an engine's guests: advances the epoch while guests run, and rests while none does.

A guest's slice ends at the next tick. Nobody else ever advances an epoch: doing that to stop one guest
would end the slices of all others. The ticks come from a timer of the operating system, which calls into the
library directly. A thread of ours would have to win the GIL for each of them, at the cost of every call, and
would come late just when the server is busy.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

LINGER_SECONDS = 0.05
"""How long the timer goes on without a guest: starting and stopping it costs more than many ticks."""


class Timer(Protocol):
    """What a ticker starts and stops; see `spear_wasm.engine.interval_timer.IntervalTimer`."""

    def start(self) -> None:
        """Call every period from now on."""
        ...

    def stop(self) -> None:
        """Call once more, and then not until started again."""
        ...

    def close(self) -> None:
        """Give the timer back."""
        ...


class Ticker:
    """Runs `timer`, of `period` seconds, while guests do. Owns a thread that stops it when none has for a while.

    A slice may be under way all that while: within one long operation, or because no tick has come for it.
    The timer's last call ends it, so no guest is left without a tick.
    """

    def __init__(self, timer: Timer, period: float) -> None:
        self.period = period
        self._timer = timer
        # Written by any thread, each time in one step under the GIL. Whoever begins a slice writes
        # `_last_slice`, then reads `_ticking`; the thread that stops the timer writes `_ticking`, then reads
        # `_last_slice`. Whichever comes second sees the other, so no guest runs without a tick.
        self._last_slice = 0.0
        self._ticking = False
        self._closing = False
        self._lag = 0.0
        self._lock = threading.Lock()  # guards: that the timer runs just when _ticking says so
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._stop_when_idle, name="spear-ticker", daemon=True)
        self._thread.start()

    @property
    def lag(self) -> float:
        """Seconds by which ticks come late, smoothed, going by the slices that they ended."""
        return self._lag

    def begin_slice(self) -> None:
        """A guest is about to run for a slice."""
        self._last_slice = time.monotonic()
        if not self._ticking:
            self._start()

    def slice_was_cut(self, cpu_seconds: float) -> None:
        """A tick ended a slice in which the guest used so much CPU time."""
        # A statistic: an update lost between threads harms nothing.
        self._lag += (max(0.0, cpu_seconds - self.period) - self._lag) * 0.05

    def _start(self) -> None:
        with self._lock:
            if not self._ticking:
                self._timer.start()
                self._ticking = True
        self._started.set()

    def _stop_when_idle(self) -> None:
        while not self._closing:
            self._started.wait()
            time.sleep(LINGER_SECONDS)
            if self._is_idle():
                self._stop()

    def _is_idle(self) -> bool:
        return time.monotonic() - self._last_slice > LINGER_SECONDS

    def _stop(self) -> None:
        with self._lock:
            self._ticking = False
            if self._is_idle():
                self._started.clear()
                self._timer.stop()
            else:
                self._ticking = True

    def close(self) -> None:
        """Stop the thread and give the timer back. No guest may run any more."""
        self._closing = True
        self._started.set()
        self._thread.join()
        self._timer.close()
