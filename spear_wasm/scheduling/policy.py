"""Policies propose; the scheduler's owner disposes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import StrEnum
from typing import Protocol


class SchedulingPolicy(StrEnum):
    """The policies by the names that configuration uses."""

    ROUND_ROBIN = "round_robin"

    def new(self) -> Policy:
        """A policy object with a history of its own."""
        return {SchedulingPolicy.ROUND_ROBIN: RoundRobin}[self]()


class Policy(Protocol):
    """Orders candidates: whatever has executions waiting, or could serve one."""

    def propose(self, candidates: Iterable[Hashable]) -> Iterable[Hashable]:
        """The candidates, best first."""
        ...

    def chosen(self, candidate: Hashable) -> None:
        """Learn that this one was taken."""
        ...


class RoundRobin:
    """Whoever was served longest ago goes first.

    A newcomer counts as served just before the one that was served last: it goes ahead of that one and behind
    those who have waited longer. So nobody waits for more turns than there are others in front of it when it
    comes, however many newcomers follow.
    """

    def __init__(self) -> None:
        self._last_served: dict[Hashable, int] = {}
        self._turn = 0

    def propose(self, candidates: Iterable[Hashable]) -> Iterable[Hashable]:
        """The candidates by the time of their last turn."""
        present = list(candidates)
        if len(self._last_served) > 2 * len(present) + 64:
            self._last_served = {
                each: self._last_served[each] for each in present if each in self._last_served
            }
        return sorted(present, key=lambda candidate: self._last_served.setdefault(candidate, self._turn - 1))

    def chosen(self, candidate: Hashable) -> None:
        """It had its turn."""
        self._turn += 1
        self._last_served[candidate] = self._turn
