"""As many as were needed of late, or will be needed soon if this day is like others."""

from __future__ import annotations

from array import array

from spear_wasm.pool.scaling.demand import Demand
from spear_wasm.pool.scaling.reactive import RecentPeak
from spear_wasm.pool.scaling.scaler import Observation

PARTS = 288
"""Parts of a season that are told apart: of a day, five minutes each."""
AHEAD = 0.2
"""How far it looks ahead at least, in parts: of a day, a minute."""
SEASONS = 7
"""Seasons that are remembered."""


class Predictive:
    """Reactive, and knows the peaks of the last seasons, part by part.

    It expects of the present part, and of those that begin within AHEAD or the time that it takes to prepare a
    sandbox, what two of the remembered seasons at least have seen: once is chance, twice is a habit. So a rise is
    foreseen from its third time on, and a spike that never comes again is never expected.
    """

    def __init__(self, floor: int, ceiling: int, memory: float, demand: Demand, season: float) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._demand = demand
        self._recent = RecentPeak(memory)
        self._part_seconds = season / PARTS
        self._peaks = [array("L", bytes(8 * SEASONS)) for _ in range(PARTS)]  # by part, then by season
        self._last_seasons = array("q", bytes(8 * PARTS))  # in which each part was seen

    def look(self, observation: Observation) -> int:
        """At least the floor, and at most the ceiling."""
        needed = self._demand.needed(observation)
        self._remember(observation.at, needed)
        recent = self._recent.with_another(observation.at, needed)
        coming = self._coming(observation.at, observation.preparation_seconds or 0.0)
        return max(self._floor, min(max(recent, coming), self._ceiling))

    def _remember(self, at: float, needed: int) -> None:
        season, part = divmod(int(at // self._part_seconds), PARTS)
        peaks, last = self._peaks[part], self._last_seasons[part]
        for unseen in range(max(last + 1, season - SEASONS + 1), season + 1):
            peaks[unseen % SEASONS] = 0  # which takes the place of the oldest
        self._last_seasons[part] = season
        peaks[season % SEASONS] = max(peaks[season % SEASONS], needed)

    def _coming(self, at: float, preparation: float) -> int:
        first = int(at // self._part_seconds)
        last = int((at + max(preparation, AHEAD * self._part_seconds)) // self._part_seconds)
        return max(self._habit(part % PARTS) for part in range(first, min(last, first + PARTS - 1) + 1))

    def _habit(self, part: int) -> int:
        """What two seasons at least have needed in this part."""
        return sorted(self._peaks[part])[-2]
