"""Whoever is likely to answer soonest goes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from spear_wasm.scheduling.policies.candidate import Candidate


class LeastResponseTime:
    """No candidate goes before one that would have answered sooner, going by its response time.

    What is in flight counts as waiting in front, so a fast candidate does not get everything, and a slow one
    gets something that its average can recover by. One that is idle and was never measured goes first, to be
    measured; while it has its first execution in flight, it goes last.
    """

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """The candidates by the time in which one more execution would be answered."""
        return sorted(candidates, key=lambda candidate: (_expected_seconds(candidate), candidate.in_flight))

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """Its response time will tell."""


def _expected_seconds(candidate: Candidate) -> float:
    if candidate.response_seconds is None:
        return inf if candidate.in_flight else 0.0
    return candidate.response_seconds * (candidate.in_flight + 1)
