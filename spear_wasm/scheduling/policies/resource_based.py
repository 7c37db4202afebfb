"""Whoever has the most to spare of what it has least of goes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spear_wasm.scheduling.policies.candidate import Candidate


class ResourceBased:
    """No candidate goes before one whose scarcer resource is less scarce, nor an unmeasured one before others."""

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """The candidates by the lesser of their headrooms, then by the other one."""
        return sorted(candidates, key=_headrooms, reverse=True)

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """Its headrooms will tell."""


def _headrooms(candidate: Candidate) -> tuple[float, float]:
    if candidate.cpu_headroom is None or candidate.memory_headroom is None:
        return (-1.0, -1.0)
    lesser, greater = sorted((candidate.cpu_headroom, candidate.memory_headroom))
    return (lesser, greater)
