"""The clock of the guests: advances the engines' epochs while guests run, and rests while none does.

A guest's slice ends at the next tick. Nobody else ever advances an epoch: doing that to stop one guest
would end the slices of all others. The ticks come from timers of the operating system, which call into the
library directly: a thread of ours would have to win the GIL for each of them, at the cost of every call,
and would come late just when the server is busy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

LINGER_SECONDS = 0.05
"""How long the timers go on without a guest, so that a busy server need not start and stop them."""


class Tick(Protocol):
    """What a ticker starts and stops; see `spear_wasm.engine.interval_timer.IntervalTimer`."""

    def start(self) -> None: ...  # noqa: D102  the class it stands for says it
    def stop(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Ticker:
    """Runs timers of `period` seconds while guests do.

    `guest_polled` must be called before each slice. It is cheap: a wake-up only after a pause.
    """

    def __init__(self, timers: Sequence[Tick], period: float) -> None:
        self.period = period
        self._timers = tuple(timers)
        # These are written by any thread, each write a single step under the GIL. A poller writes
        # `_last_poll`, then reads `_ticking`; the thread that stops the timers writes `_ticking`, then reads
        # `_last_poll`: whichever comes second sees the other, so no guest runs without a tick for long.
        self._last_poll = 0.0
        self._ticking = False
        self._lag = 0.0
        self._lock = threading.Lock()  # guards: starting and stopping the timers, _closing
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._stop_when_idle, name="spear-ticker", daemon=True)
        self._thread.start()

    @property
    def lag(self) -> float:
        """Seconds by which recent ticks came late, smoothed, as seen by the slices that they ended."""
        return self._lag if self._ticking else 0.0

    def guest_polled(self) -> None:
        """Say that a guest is about to run for a slice."""
        self._last_poll = time.monotonic()
        if not self._ticking:
            self._start()

    def slice_ended(self, cpu_seconds: float) -> None:
        """Say that a tick ended a slice in which the guest used so much CPU time."""
        self._lag += (max(0.0, cpu_seconds - self.period) - self._lag) * 0.05

    def _start(self) -> None:
        with self._lock:
            if self._ticking or self._closing:
                return
            for timer in self._timers:
                timer.start()
            self._ticking = True
        self._wake.set()

    def _stop_when_idle(self) -> None:
        while not self._closing:
            self._wake.wait()
            time.sleep(LINGER_SECONDS)
            if time.monotonic() - self._last_poll < LINGER_SECONDS:
                continue
            with self._lock:
                self._wake.clear()
                self._ticking = False
                if time.monotonic() - self._last_poll < LINGER_SECONDS:
                    self._ticking = True
                    self._wake.set()
                    continue
                for timer in self._timers:
                    timer.stop()

    def close(self) -> None:
        """Stop the timers and the thread. No guest may run any more."""
        with self._lock:
            self._closing = True
        self._wake.set()
        self._thread.join()
        for timer in self._timers:
            timer.close()
