"""As many as were needed of late."""

from __future__ import annotations

from collections import deque

from spear_wasm.pool.scaling.demand import Demand
from spear_wasm.pool.scaling.scaler import Observation


class Reactive:
    """Expects of the time to come the greatest need of the last `memory` seconds; the floor where there was none."""

    def __init__(self, floor: int, ceiling: int, memory: float, demand: Demand) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._demand = demand
        self._recent = RecentPeak(memory)

    def look(self, observation: Observation) -> int:
        """At least the floor, and at most the ceiling."""
        needed = self._recent.with_another(observation.at, self._demand.needed(observation))
        return max(self._floor, min(needed, self._ceiling))


class RecentPeak:
    """The greatest of the numbers of the last `memory` seconds."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._falling: deque[tuple[float, int]] = (
            deque()
        )  # each is the greatest of those that came after the one before

    def with_another(self, at: float, number: int) -> int:
        """The greatest, once this one has been counted; times must not fall."""
        while self._falling and self._falling[-1][1] <= number:
            self._falling.pop()
        self._falling.append((at, number))
        while self._falling[0][0] < at - self._memory:
            self._falling.popleft()
        return self._falling[0][1]
