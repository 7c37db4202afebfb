"""The line in front of the sandboxes: by priority, then fairly between tasks, then by deadline."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import Enum, auto
from typing import Generic, TypeAlias, TypeVar

from spear_wasm.scheduling.deadline_queue import DeadlineQueue, Place

Item = TypeVar("Item", bound=Hashable)

DEFAULT_PRIORITY = 5


class Verdict(Enum):
    """What the owner says of an item whose turn it is."""

    START = auto()
    TASK_IS_FULL = auto()
    """Its task runs as many as it may, or as are its share; others can go ahead."""
    SERVER_IS_FULL = auto()
    """There is no room for it on the server. Nobody goes ahead, or large executions would wait for ever."""


Ring: TypeAlias = "OrderedDict[Hashable, DeadlineQueue[Item]]"
"""The tasks of one priority in the order of their turns."""


class InstanceScheduler(Generic[Item]):
    """Waiting items by the task that they belong to. Not locked: the manager's lock guards it.

    Of two items, the one with the higher priority goes first, always: while there are some of a higher
    priority that may start, those of a lower one wait, until their time is up if need be. At one priority
    tasks take turns, an item each; a task joins behind all others, when it comes as after each of its turns,
    so it waits for no more turns than there are tasks in front of it, however much any of them has waiting
    and whoever comes later. Within a task the earliest deadline goes first, then who came first.

    To add, to remove and to take cost the logarithm of a task's line at most. To take costs a question more
    for each task in front that is full.
    """

    def __init__(self) -> None:
        self._rings: dict[int, Ring[Item]] = {}  # by priority; none is empty, nor is any queue in them
        self._places: dict[Hashable, dict[Item, tuple[int, Place[Item]]]] = {}  # with the priorities, by task
        self._arrivals = itertools.count()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, task: Hashable, item: Item, *, deadline: float, priority: int = DEFAULT_PRIORITY) -> None:
        """Join the line. The item must not be in the task's line; `deadline` is in the terms of any clock."""
        ring = self._rings.setdefault(priority, OrderedDict())
        if task not in ring:
            ring[task] = DeadlineQueue()
        place = ring[task].add(item, deadline, next(self._arrivals))
        self._places.setdefault(task, {})[item] = priority, place
        self._length += 1

    def remove(self, task: Hashable, item: Item) -> bool:
        """Leave the line; False if the item was not in it."""
        if item not in self._places.get(task, ()):
            return False
        priority, place = self._forget(task, item)
        queue = self._rings[priority][task]
        queue.remove(place)
        if not len(queue):
            self._drop_queue(priority, task)
        return True

    def take_next(self, judge: Callable[[Item], Verdict]) -> Item | None:
        """Remove and return the item whose turn it is, if there is one that may start now.

        `judge` is asked about the first items of the tasks in the order of their turns, and not again about
        a task that is full.
        """
        full: set[Hashable] = set()
        for priority in sorted(self._rings, reverse=True):
            for task, queue in self._rings[priority].items():
                if task in full:
                    continue
                item = queue.first()
                verdict = judge(item)
                if verdict is Verdict.START:
                    self._take(priority, task, item)
                    return item
                if verdict is Verdict.SERVER_IS_FULL:
                    return None
                full.add(task)
        return None

    def _take(self, priority: int, task: Hashable, item: Item) -> None:
        self._forget(task, item)
        ring = self._rings[priority]
        ring[task].remove_first()
        if len(ring[task]):
            ring.move_to_end(task)
        else:
            self._drop_queue(priority, task)

    def _forget(self, task: Hashable, item: Item) -> tuple[int, Place[Item]]:
        places = self._places[task]
        forgotten = places.pop(item)
        if not places:
            del self._places[task]
        self._length -= 1
        return forgotten

    def _drop_queue(self, priority: int, task: Hashable) -> None:
        ring = self._rings[priority]
        del ring[task]
        if not ring:
            del self._rings[priority]
