"""The clock of an engine's guests: advances the epoch while guests run, and rests while none does.

A guest's slice ends at the next tick. Nobody else ever advances an epoch: doing that to stop one guest
would end the slices of all others. The ticks come from a timer of the operating system, which calls into the
library directly. A thread of ours would have to win the GIL for each of them, at the cost of every call, and
would come late just when the server is busy.

A tick has its price, too: the C library makes a thread for each, and a guest that computes stops for it. Guests that
are expected to be brief hardly ever see one, and one that keeps nobody waiting need not: while there are no others
ticks come less often, until somebody is in a hurry.
"""

from __future__ import annotations

import threading
import time
from enum import IntEnum
from typing import Protocol

LINGER_SECONDS = 0.05
"""How long a pace is kept at least that no guest needs: changing it costs more than many ticks."""
SLOW_PERIODS = 5
"""At the slow pace ticks come so many times less often."""


class Timer(Protocol):
    """What a ticker starts and stops; see `spear_wasm.engine.interval_timer.IntervalTimer`."""

    def start(self, period: float) -> None:
        """Call every period (seconds) from now on, whatever the period was before."""
        ...

    def stop(self) -> None:
        """Do not call until started again."""
        ...

    def close(self) -> None:
        """Give the timer back."""
        ...


class Pace(IntEnum):
    """How often ticks come, and so how long slices are."""

    REST = 0
    SLOW = 1
    """For guests that are expected to end before the first tick, and for those that keep nobody waiting."""
    FULL = 2
    """Each period."""


class Ticker:
    """Runs `timer`, with a tick every `period` seconds or `slow_period`, while guests run.

    Owns a thread that slows it down again. A slice may take long: within one operation that cannot be cut, or because
    its thread does not get the GIL. For as long as one is under way the timer does not rest.
    """

    def __init__(self, timer: Timer, period: float) -> None:
        self.period = period
        self.slow_period = SLOW_PERIODS * period
        # Longer than a slice: the pace that it began at must not change before it is over.
        self._linger = max(LINGER_SECONDS, 2 * period)
        self._timer = timer
        # Written by any thread, each time in one step under the GIL. Whoever begins a slice writes when, then
        # reads `_pace`; the thread that slows the timer writes `_pace`, then reads when slices began. Whichever
        # comes second sees the other, so no guest runs without the ticks that it needs.
        self._last_slow = self._last_full = 0.0
        # The threads that are in a slice, however long they have not had the GIL.
        self._running: set[int] = set()
        self._pace = Pace.REST
        self._closing = False
        self._lag = 0.0
        self._lock = threading.Lock()  # guards: that the timer runs as _pace says
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._slow_down, name="spear-ticker", daemon=True)
        self._thread.start()

    @property
    def lag(self) -> float:
        """Seconds by which ticks come late, smoothed, going by the slices that they ended."""
        return self._lag

    def begin_slice(self, pace: Pace) -> None:
        """A guest is about to run, and ticks have to come at this pace at least."""
        self._running.add(threading.get_ident())
        if pace is Pace.FULL:
            self.hurry()
        else:
            self._last_slow = time.monotonic()
            self._quicken(pace)

    def end_slice(self) -> None:
        """The guest that this thread ran has stopped."""
        self._running.discard(threading.get_ident())

    def hurry(self) -> None:
        """Ticks have to come at the full pace: what began at the slow one ends a period from now."""
        self._last_full = time.monotonic()
        self._quicken(Pace.FULL)

    def slice_was_cut(self, pace: Pace, cpu_seconds: float) -> None:
        """A tick ended a slice that began at this pace, in which the guest used so much CPU time."""
        # A statistic: an update lost between threads harms nothing.
        self._lag += (max(0.0, cpu_seconds - self._period_at(pace)) - self._lag) * 0.05

    def _quicken(self, pace: Pace) -> None:
        if self._pace >= pace:
            return
        with self._lock:
            if self._pace < pace:
                self._timer.start(self._period_at(pace))
                self._pace = pace
        self._started.set()

    def _period_at(self, pace: Pace) -> float:
        return self.period if pace is Pace.FULL else self.slow_period

    def _slow_down(self) -> None:
        while not self._closing:
            self._started.wait()
            time.sleep(self._linger)
            if self._needed() < self._pace:
                self._relax()

    def _needed(self) -> Pace:
        """The pace for the slices that began of late, or have not ended."""
        long_ago = time.monotonic() - self._linger
        if self._last_full >= long_ago:
            return Pace.FULL
        return Pace.SLOW if self._running or self._last_slow >= long_ago else Pace.REST

    def _relax(self) -> None:
        with self._lock:
            before = self._pace
            self._pace = Pace.REST  # whoever begins a slice from here on waits for the lock
            self._pace = self._needed()
            if self._pace is Pace.REST:
                self._started.clear()
                self._timer.stop()
            elif self._pace is not before:
                self._timer.start(self._period_at(self._pace))

    def close(self) -> None:
        """Stop the thread and give the timer back. No guest may run any more."""
        self._closing = True
        self._started.set()
        self._thread.join()
        self._timer.close()
