"""One task's line at one priority: who has to be done first goes first."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Item = TypeVar("Item")

FEW = 64
"""So many places that were left may stay, whatever else there is: to clear them costs more than they do."""


class Place(Generic[Item]):
    """Where an item stands; empty once the item left."""

    __slots__ = ("item", "rank")

    def __init__(self, item: Item, rank: tuple[float, int]) -> None:
        self.item: Item | None = item
        self.rank = rank

    def __lt__(self, other: Place[Item]) -> bool:
        return self.rank < other.rank


class DeadlineQueue(Generic[Item]):
    """A heap of places. The first one is never empty while there are items."""

    def __init__(self) -> None:
        self._heap: list[Place[Item]] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, item: Item, deadline: float, arrival: int) -> Place[Item]:
        """Take a place; `arrival` decides between equal deadlines."""
        place = Place(item, (deadline, arrival))
        heapq.heappush(self._heap, place)
        self._length += 1
        return place

    def first(self) -> Item:
        """Whose turn it is. There must be one."""
        item = self._heap[0].item
        assert item is not None
        return item

    def remove_first(self) -> None:
        """Let the first one leave."""
        self.remove(self._heap[0])

    def remove(self, place: Place[Item]) -> None:
        """Leave the line from anywhere in it."""
        place.item = None
        self._length -= 1
        # Places are left in the heap until they come to its front, or nearly all of it would be moved.
        while self._heap and self._heap[0].item is None:
            heapq.heappop(self._heap)
        if len(self._heap) > 2 * self._length + FEW:
            self._heap = [each for each in self._heap if each.item is not None]
            heapq.heapify(self._heap)
