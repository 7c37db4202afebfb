"""The room on a server: how many executions may run at once, and what memory they may grow to together."""

from __future__ import annotations

from spear_wasm.scheduling.allowance import Allowance
from spear_wasm.scheduling.fair_share import is_at_share
from spear_wasm.scheduling.instance_scheduler import Verdict


class Holding:
    """What some executions have of the room together: those of one task, or of one priority."""

    __slots__ = ("memory_bytes", "places")

    def __init__(self) -> None:
        self.places = 0
        self.memory_bytes = 0


class Room:
    """Places and memory, which tasks share fairly. Not locked: the manager's lock guards it and all holdings.

    What executions of lower priorities hold counts as free where a task's share is measured: they get what the
    higher ones leave, and take nothing from them but the time until they end.
    """

    def __init__(self, places: Allowance, memory: Allowance) -> None:
        self._places = places
        self._memory = memory  # in bytes
        self.places_taken = 0
        self.memory_taken = 0
        self._held_at: dict[int, Holding] = {}  # by priority

    def try_take(self, holding: Holding, memory_bytes: int, priority: int) -> Verdict:
        """Take a place, and memory to grow to, for an execution of the task that has this holding."""
        if self._is_at_share(holding, priority):
            return Verdict.TASK_IS_FULL
        if self._places.covers(self.places_taken + 1) and self._memory.covers(
            self.memory_taken + memory_bytes
        ):
            self._add(holding, 1, memory_bytes, priority)
            return Verdict.START
        self.settle()
        return Verdict.SERVER_IS_FULL

    def give_back(self, holding: Holding, memory_bytes: int, priority: int) -> None:
        """Return what `try_take` gave."""
        self._add(holding, -1, -memory_bytes, priority)
        self.settle()

    def settle(self) -> None:
        """Let others have what is not used here; now and then, since they may wait while nothing happens here."""
        self._places.settle(self.places_taken)
        self._memory.settle(self.memory_taken)

    def _add(self, holding: Holding, places: int, memory_bytes: int, priority: int) -> None:
        self.places_taken += places
        self.memory_taken += memory_bytes
        held = self._held_at.get(priority)
        if held is None:
            held = self._held_at[priority] = Holding()
        for each in (holding, held):
            each.places += places
            each.memory_bytes += memory_bytes

    def _is_at_share(self, holding: Holding, priority: int) -> bool:
        if not holding.places:
            return False
        places_free = self._places.free(self.places_taken)
        memory_free = self._memory.free(self.memory_taken)
        # Most of the time this is all that has to be asked, whoever has the rest.
        if not is_at_share(holding.places, places_free) and not is_at_share(
            holding.memory_bytes, memory_free
        ):
            return False
        below = [held for each, held in self._held_at.items() if each < priority]
        return is_at_share(holding.places, places_free + sum(held.places for held in below)) or is_at_share(
            holding.memory_bytes, memory_free + sum(held.memory_bytes for held in below)
        )
