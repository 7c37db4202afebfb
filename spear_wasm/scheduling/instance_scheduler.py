"""The line in front of the sandboxes: first come, first served within a task; between tasks the policy decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum, auto
from typing import Generic, TypeVar

from spear_wasm.scheduling.policy import Policy

Item = TypeVar("Item")


class Verdict(Enum):
    """What the owner says of an item at the head of its task's line."""

    START = auto()
    TASK_IS_FULL = auto()
    """Its task runs as many as it may; others can go ahead."""
    SERVER_IS_FULL = auto()
    """There is no room for it on the server. Nobody goes ahead, or large executions would wait for ever."""


class InstanceScheduler(Generic[Item]):
    """Waiting items by the task that they belong to. Not locked: the manager's lock guards it."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lines: dict[Hashable, deque[Item]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, task: Hashable, item: Item) -> None:
        """Join the end of the task's line."""
        self._lines.setdefault(task, deque()).append(item)
        self._length += 1

    def remove(self, task: Hashable, item: Item) -> bool:
        """Leave the line; False if the item was not in it."""
        line = self._lines.get(task)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._shrink(task, line)
        return True

    def take_next(self, judge: Callable[[Item], Verdict]) -> Item | None:
        """Remove and return the item whose turn it is, if there is one that may start now.

        `judge` is asked about the heads of the tasks' lines in the order of the policy.
        """
        for task in self._policy.propose(self._lines):
            line = self._lines[task]
            verdict = judge(line[0])
            if verdict is Verdict.START:
                item = line.popleft()
                self._shrink(task, line)
                self._policy.chosen(task)
                return item
            if verdict is Verdict.SERVER_IS_FULL:
                return None
        return None

    def waiting(self, task: Hashable) -> list[Item]:
        """The task's line, first come first."""
        return list(self._lines.get(task, ()))

    def _shrink(self, task: Hashable, line: deque[Item]) -> None:
        self._length -= 1
        if not line:
            del self._lines[task]
