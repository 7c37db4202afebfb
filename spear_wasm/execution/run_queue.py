"""Who runs next: the runnable fiber that has had the least time so far."""

from __future__ import annotations

import heapq
import itertools

from spear_wasm.execution.fiber import Fiber, FiberState


class RunQueue:
    """Runnable fibers by virtual time, so that turns are shared by time used and not by slices begun.

    A guest whose one step took 30 ms (a memory.fill cannot be cut) waits until the others have had as much.
    A newcomer starts at the time of the one that ran last: it neither waits for the old ones nor overtakes
    them for long. Not locked: the executor's lock guards it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Fiber]] = []
        self._order = itertools.count()
        self._now = 0

    def push(self, fiber: Fiber) -> None:
        """Add a runnable fiber."""
        fiber.virtual_time = max(fiber.virtual_time, self._now)
        heapq.heappush(self._heap, (fiber.virtual_time, next(self._order), fiber))

    def pop(self) -> Fiber | None:
        """The next fiber that is still runnable; those that ended while they waited are dropped."""
        while self._heap:
            self._now, _, fiber = heapq.heappop(self._heap)
            if fiber.state is FiberState.RUNNABLE:
                return fiber
        return None

    def __len__(self) -> int:
        return len(self._heap)
