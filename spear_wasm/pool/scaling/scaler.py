"""What every way of scaling is told and answers, and all of them by name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Observation:
    """What happened to a task since the last look; `at` is now, in seconds of any clock that never goes back.

    Calls that arrived, the most that were busy at once, and the time that it takes to prepare a sandbox: None
    before one has been prepared.
    """

    at: float
    arrivals: int
    busy: int
    preparation_seconds: float | None = None


class Scaler(Protocol):
    """Looks at a task's demand now and then."""

    def look(self, observation: Observation) -> int:
        """How many sandboxes should be at hand from now on."""
        ...


class Scaling(StrEnum):
    """Every way of scaling that there is."""

    FIXED = "fixed"
    REACTIVE = "reactive"
    PREDICTIVE = "predictive"
