"""What a policy may know of those that it orders."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that could serve the next execution, as it is at this moment.

    None stands for a figure that nobody has measured; no policy takes it for a good one.
    """

    name: Hashable
    """By this it is the same candidate from turn to turn, while the figures change."""
    in_flight: int = 0
    """Executions that it serves at present."""
    weight: int = 1
    """Its share of the turns in proportion to the others'; at least 1."""
    response_seconds: float | None = None
    """How long it has taken to answer of late; see MovingAverage."""
    cpu_headroom: float | None = None
    """The part of its CPU that is idle, 0.0 to 1.0."""
    memory_headroom: float | None = None
    """The part of its memory that is free, 0.0 to 1.0."""
