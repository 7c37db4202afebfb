"""How many sandboxes were needed at once."""

from __future__ import annotations

import math
from collections import deque

from spear_wasm.pool.scaling.scaler import Observation


class Demand:
    """Turns what happened into the number of sandboxes that would have been enough.

    A sandbox that serves one call is replaced by one that takes a while to prepare; so as many are needed at hand as
    calls arrive in that while. One that serves again is needed as long as it is busy; so as many are needed as were
    busy at once.
    """

    def __init__(self, *, serves_again: bool) -> None:
        self._serves_again = serves_again
        self._last: float | None = None
        self._recent: deque[tuple[float, int]] = (
            deque()
        )  # arrivals, by the time of the look that came before them
        self._in_recent = 0

    def needed(self, observation: Observation) -> int:
        """By what happened since the last look, and in the time that it takes to prepare a sandbox, if that is more."""
        if self._serves_again:
            return observation.busy
        since = observation.at if self._last is None else self._last
        self._last = observation.at
        self._recent.append((since, observation.arrivals))
        self._in_recent += observation.arrivals
        preparation = observation.preparation_seconds
        if preparation is None:
            return min(1, self._in_recent)  # one, to find out
        while len(self._recent) > 1 and self._recent[1][0] <= observation.at - preparation:
            self._in_recent -= self._recent.popleft()[1]
        return self._in_preparation(observation.at - self._recent[0][0], preparation)

    def _in_preparation(self, window: float, preparation: float) -> int:
        """The most of the arrivals in a window that are likely to come within the time of one preparation."""
        if window <= preparation:
            return self._in_recent
        # They come as they like, so the square root stands for a deviation: two of them are rarely exceeded.
        average = self._in_recent * preparation / window
        return min(self._in_recent, math.ceil(average + 2 * math.sqrt(average)))
