"""Tasks that are kept: they outlive the server, and all of its workers have the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear_wasm.execution.task import TaskRecord


class NameTakenElsewhere(Exception):
    """Another process was faster to give a task a name."""


class TaskStore(Protocol):
    """The records of all tasks. Thread-safe; what a call changed, nothing can undo when it returns."""

    def load(self, after: int = 0) -> list[TaskRecord]:
        """The records behind a sequence number, oldest first."""
        ...

    def ids(self) -> set[str]:
        """The ids of all tasks."""
        ...

    def add(
        self, record: TaskRecord, most: int, is_known: Callable[[str], bool] = lambda _: False
    ) -> TaskRecord:
        """Keep a record; returns it with its sequence number, which is higher than any before.

        Raises:
            TooManyTasks: there are as many as there may be.
            NameTakenElsewhere: there is a task of that name whose id `is_known` knows nothing of.
        """
        ...

    def remove(self, task_id: str) -> None:
        """Forget a record, if it is there."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...
