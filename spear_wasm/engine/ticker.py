"""The clock of the guests: one thread that advances the engines' epochs, and sleeps while no guest runs.

A guest's slice ends at the next tick. Nobody else ever advances an epoch: doing that to stop one guest
would end the slices of all others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

LINGER_TICKS = 50
"""Ticks without a guest after which the thread sleeps: a busy server never pays for waking it."""


class Ticker:
    """Calls every function in `advance` once a `period` (seconds) while guests run.

    `guest_polled` must be called before each slice. It is cheap: a wake-up only after a pause.
    """

    def __init__(self, advance: Sequence[Callable[[], None]], period: float) -> None:
        self.period = period
        self._advance = tuple(advance)
        # These three are written by any thread, each write a single step under the GIL. A poller writes
        # `_last_poll`, then reads `_asleep`; the ticker writes `_asleep`, then reads `_last_poll`: whichever
        # comes second sees the other, so no wake-up is lost.
        self._last_poll = 0.0
        self._asleep = False
        self._closing = False
        self._awake = threading.Event()
        self._lag = 0.0
        self._thread = threading.Thread(target=self._run, name="spear-ticker", daemon=True)
        self._thread.start()

    @property
    def lag(self) -> float:
        """Seconds by which recent ticks came late, smoothed; 0.0 while no guest runs."""
        return 0.0 if self._asleep else self._lag

    def guest_polled(self) -> None:
        """Say that a guest is about to run for a slice."""
        self._last_poll = time.monotonic()
        if self._asleep:
            self._awake.set()

    def close(self) -> None:
        """Stop the thread and wait for it. No guest may run any more."""
        self._closing = True
        self._awake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            before = time.monotonic()
            if before - self._last_poll > LINGER_TICKS * self.period:
                self._sleep_until_polled()
                before = time.monotonic()
            time.sleep(self.period)
            for advance in self._advance:
                advance()
            late = time.monotonic() - before - self.period
            self._lag += (late - self._lag) * 0.05

    def _sleep_until_polled(self) -> None:
        self._awake.clear()
        self._asleep = True
        if time.monotonic() - self._last_poll > LINGER_TICKS * self.period and not self._closing:
            self._awake.wait()
        self._asleep = False
        self._lag = 0.0
