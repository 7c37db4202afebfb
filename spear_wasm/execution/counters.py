"""How many executions ended how, by the hour in which they did."""

from __future__ import annotations

from dataclasses import dataclass, field

from spear_wasm.model import ExecutionStatus

KEPT_HOURS = 24 * 31
MAX_FUNCTIONS = 100
"""Functions that a tally counts by name: guests choose names, and as many as they like."""
MAX_NAME_CHARS = 200
"""Names are cut here, for the same reason."""
OTHERS = "(others)"
"""The name for what is counted by no name of its own."""


@dataclass(slots=True)
class Tally:
    """Counts of ended executions, and the sums that averages are made of."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    timed: int = 0
    """Those whose times are known."""
    run_seconds: float = 0.0
    response_seconds: float = 0.0
    by_function: dict[str, int] = field(default_factory=dict)
    """How many of all that ended, by function name."""

    @property
    def ended(self) -> int:
        """All of them."""
        return self.completed + self.failed + self.cancelled

    @property
    def success_percent(self) -> float:
        """Completed executions among those that ended; 0.0 where none has."""
        return 100.0 * self.completed / self.ended if self.ended else 0.0

    @property
    def average_run_ms(self) -> float:
        """From first slice to end."""
        return 1000 * self.run_seconds / self.timed if self.timed else 0.0

    @property
    def average_response_ms(self) -> float:
        """From admission to end."""
        return 1000 * self.response_seconds / self.timed if self.timed else 0.0

    def count(
        self, status: ExecutionStatus, run_seconds: float, response_seconds: float, function: str
    ) -> None:
        """One more has ended. Timeouts count as failed."""
        if status is ExecutionStatus.COMPLETED:
            self.completed += 1
        elif status is ExecutionStatus.CANCELLED:
            self.cancelled += 1
        else:
            self.failed += 1
        self.timed += 1
        self.run_seconds += run_seconds
        self.response_seconds += response_seconds
        self._count_name(function[:MAX_NAME_CHARS])

    def count_lost(self, function: str) -> None:
        """One more has failed, of which nobody knows how long it took."""
        self.failed += 1
        self._count_name(function[:MAX_NAME_CHARS])

    def _count_name(self, name: str) -> None:
        counts = self.by_function
        named = len(counts) - (OTHERS in counts)
        if name not in counts and named >= MAX_FUNCTIONS:
            self._drop_rarest()
        counts[name] = counts.get(name, 0) + 1

    def _drop_rarest(self) -> None:
        """So the names that are called most keep their counts, whatever others come and go."""
        counts = self.by_function
        rarest = min(counts.keys() - {OTHERS}, key=counts.__getitem__)
        counts[OTHERS] = counts.get(OTHERS, 0) + counts.pop(rarest)

    def add(self, other: Tally) -> None:
        """Include another tally."""
        self.completed += other.completed
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.timed += other.timed
        self.run_seconds += other.run_seconds
        self.response_seconds += other.response_seconds
        for name, count in other.by_function.items():
            self.by_function[name] = self.by_function.get(name, 0) + count
        while len(self.by_function) - (OTHERS in self.by_function) > MAX_FUNCTIONS:
            self._drop_rarest()


class Counters:
    """Tallies since the start, and for each of the last hours. Not locked: ExecutionRegistry's lock guards it."""

    def __init__(self) -> None:
        self._hours: dict[int, Tally] = {}
        self._hour = 0  # the present one
        self._present = Tally()
        self._past = Tally()  # of all hours before

    def count(
        self,
        status: ExecutionStatus,
        run_seconds: float,
        response_seconds: float,
        function: str,
        now: float,
    ) -> None:
        """An execution of a function ended at `now` (seconds since the epoch)."""
        self._tally_at(now).count(status, run_seconds, response_seconds, function)

    def count_lost(self, function: str, now: float) -> None:
        """An execution of a function is found to have been lost, at `now`."""
        self._tally_at(now).count_lost(function)

    def _tally_at(self, now: float) -> Tally:
        hour = int(now // 3600)
        if hour > self._hour:
            self._begin(hour)
        elif hour < self._hour and hour not in self._hours:  # the clock was ahead
            self._hours[hour] = self._hours.pop(self._hour)
            self._hour = hour
        return self._present

    def _begin(self, hour: int) -> None:
        self._past.add(self._present)
        self._hour, self._present = hour, Tally()
        self._hours[hour] = self._present
        for old in [each for each in self._hours if each <= hour - KEPT_HOURS]:
            del self._hours[old]

    @property
    def average_run_ms(self) -> float:
        """Of all that ended since the start."""
        timed = self._past.timed + self._present.timed
        return 1000 * (self._past.run_seconds + self._present.run_seconds) / timed if timed else 0.0

    def since(self, hours: int, now: float) -> Tally:
        """The tally of the last so many hours, the present one included; 0 means since the start."""
        result = Tally()
        if hours <= 0:
            result.add(self._past)
            result.add(self._present)
            return result
        first = int(now // 3600) - hours + 1
        for hour, tally in self._hours.items():
            if hour >= first:
                result.add(tally)
        return result
