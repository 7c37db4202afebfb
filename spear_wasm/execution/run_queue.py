"""Who runs next: of the task that has had the least time so far, the runnable fiber that has had the least."""

from __future__ import annotations

import heapq
import itertools
from typing import TypeAlias

from spear_wasm.execution.fiber import Fiber, FiberState
from spear_wasm.execution.share import Share

Line: TypeAlias = "list[tuple[int, int, Fiber]]"
"""A task's runnable fibers by virtual time, a heap."""


CREDIT_NS = 20_000_000
"""Time that a task may use at once ahead of the others, of what it let go by before."""


class RunQueue:
    """Runnable fibers by virtual time, so that turns are shared by time used and not by slices begun.

    Tasks share first, then the fibers of each: however many guests one task runs, another's gets its turn. A guest
    whose one step took 30 ms (a memory.fill cannot be cut) waits until the others have had as much. A new fiber of
    a task starts at the time of the one that ran last: it neither waits for the old ones nor overtakes them for
    long. So does a task that had no fibers, but for CREDIT_NS where it has not used them: a short guest of a quiet
    task is done before the busy ones have their next turn. Not locked: the executor's lock guards it.
    """

    def __init__(self) -> None:
        self._lines: dict[Share, Line] = {}
        self._shares: list[tuple[int, int, Share]] = []  # a heap of those that have a line
        self._order = itertools.count()
        self._now = 0

    def push(self, fiber: Fiber) -> None:
        """Add a runnable fiber."""
        share = fiber.share
        line = self._lines.get(share)
        if line is None:
            line = self._lines[share] = []
            share.virtual_time = max(share.virtual_time, self._now - CREDIT_NS)
            self._enter(share)
        fiber.virtual_time = max(fiber.virtual_time, share.latest)
        heapq.heappush(line, (fiber.virtual_time, next(self._order), fiber))

    def pop(self) -> Fiber | None:
        """The next fiber that is still runnable; those that ended while they waited are dropped."""
        while self._shares:
            entered_at, _, share = heapq.heappop(self._shares)
            if entered_at < share.virtual_time:  # its guests have used more since it took this place
                self._enter(share)
                continue
            fiber = self._first(share)
            if self._lines[share]:
                self._enter(share)
            else:
                del self._lines[share]
            if fiber is not None:
                self._now = max(self._now, share.virtual_time)
                return fiber
        return None

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def _enter(self, share: Share) -> None:
        heapq.heappush(self._shares, (share.virtual_time, next(self._order), share))

    def _first(self, share: Share) -> Fiber | None:
        line = self._lines[share]
        while line:
            share.latest, _, fiber = heapq.heappop(line)
            if fiber.state is FiberState.RUNNABLE:
                return fiber
        return None
