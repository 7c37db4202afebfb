"""Whoever serves the fewest executions goes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spear_wasm.scheduling.policies.candidate import Candidate


class LeastLoaded:
    """No candidate goes before one with less in flight."""

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """The candidates by what they have in flight."""
        return sorted(candidates, key=lambda candidate: candidate.in_flight)

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """What it has in flight will tell."""
