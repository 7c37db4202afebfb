"""How many executions ended how, by the hour in which they did."""

from __future__ import annotations

from dataclasses import dataclass

from spear_wasm.model import ExecutionStatus

KEPT_HOURS = 24 * 31


@dataclass(slots=True)
class Tally:
    """Counts of ended executions, and the sums that averages are made of."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    run_seconds: float = 0.0
    response_seconds: float = 0.0

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
        return 1000 * self.run_seconds / self.ended if self.ended else 0.0

    @property
    def average_response_ms(self) -> float:
        """From admission to end."""
        return 1000 * self.response_seconds / self.ended if self.ended else 0.0

    def count(self, status: ExecutionStatus, run_seconds: float, response_seconds: float) -> None:
        """One more has ended. Timeouts count as failed."""
        if status is ExecutionStatus.COMPLETED:
            self.completed += 1
        elif status is ExecutionStatus.CANCELLED:
            self.cancelled += 1
        else:
            self.failed += 1
        self.run_seconds += run_seconds
        self.response_seconds += response_seconds

    def add(self, other: Tally) -> None:
        """Include another tally."""
        self.completed += other.completed
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.run_seconds += other.run_seconds
        self.response_seconds += other.response_seconds


class Counters:
    """Tallies since the start, and for each of the last hours. Not locked: the manager's lock guards it."""

    def __init__(self) -> None:
        self.total = Tally()
        self._hours: dict[int, Tally] = {}

    def count(self, status: ExecutionStatus, run_seconds: float, response_seconds: float, now: float) -> None:
        """An execution ended at `now` (seconds since the epoch)."""
        self.total.count(status, run_seconds, response_seconds)
        hour = int(now // 3600)
        tally = self._hours.get(hour)
        if tally is None:
            tally = self._hours[hour] = Tally()
            for old in [each for each in self._hours if each <= hour - KEPT_HOURS]:
                del self._hours[old]
        tally.count(status, run_seconds, response_seconds)

    def since(self, hours: int, now: float) -> Tally:
        """The tally of the last so many hours, the present one included; 0 means since the start."""
        result = Tally()
        if hours <= 0:
            result.add(self.total)
            return result
        first = int(now // 3600) - hours + 1
        for hour, tally in self._hours.items():
            if hour >= first:
                result.add(tally)
        return result
