"""When a worker is started again that has died. Pure: who asks has the clock."""

from __future__ import annotations

from spear_wasm.execution.retry import Backoff

STEADY_SECONDS = 1.0
"""Who has served for so long has not died of its start."""
MOST_FAILURES = 6
BACKOFF = Backoff(first=0.1, longest=10.0)


class Restarts:
    """The deaths of the workers of one place."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def pause_after(self, served_seconds: float) -> float:
        """Seconds until the next one is started: none after the first death, and longer if they go on dying young."""
        self._in_a_row = 1 if served_seconds >= STEADY_SECONDS else self._in_a_row + 1
        return BACKOFF.pause(self._in_a_row - 1, chance=1) if self._in_a_row > 1 else 0.0

    @property
    def is_hopeless(self) -> bool:
        """Whether so many have died young that another one will hardly live."""
        return self._in_a_row >= MOST_FAILURES
