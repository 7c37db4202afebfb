"""Deadlines in order of time. Not locked: the executor's lock guards it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Timer:
    """Something to do at a time, unless it is cancelled first."""

    __slots__ = ("action", "cancelled", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when = when
        self.action = action
        self.cancelled = False


class Timers:
    """A heap of timers; `when` is in the terms of whatever clock the owner uses."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0  # how many in the heap are

    def add(self, timer: Timer) -> None:
        """Arm a timer."""
        heapq.heappush(self._heap, (timer.when, next(self._order), timer))

    def cancel(self, timer: Timer) -> None:
        """Disarm a timer that was added; nothing happens if it is due or cancelled already."""
        if timer.cancelled:
            return
        timer.cancelled = True
        timer.action = _nothing  # it refers to a guest and its sandbox, which need not stay as long
        self._cancelled += 1
        # Most deadlines are far away when their guest ends. Without this their timers would pile up.
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].cancelled]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_time(self) -> float | None:
        """When the next timer is due."""
        while self._heap and self._heap[0][2].cancelled:
            heapq.heappop(self._heap)
            self._cancelled = max(0, self._cancelled - 1)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> Callable[[], None] | None:
        """Remove a timer that is due; returns what it is to do."""
        when = self.next_time()
        if when is None or when > now:
            return None
        timer = heapq.heappop(self._heap)[2]
        timer.cancelled = True
        action, timer.action = timer.action, _nothing
        return action

    def __len__(self) -> int:
        return len(self._heap)


def _nothing() -> None:
    pass
