"""The tasks in service, by id and by name, and on disk."""

from __future__ import annotations

import threading

from spear_wasm.errors import InvalidRequest, TaskExists, TaskNotFound, TooManyTasks
from spear_wasm.execution.task import Task, TaskRecord
from spear_wasm.execution.task_store import TaskStore
from spear_wasm.values import shown


class TaskRegistry:
    """Owns which tasks exist. Thread-safe."""

    def __init__(self, store: TaskStore, most: int) -> None:
        self._store = store
        self._most = most
        self._lock = threading.Lock()  # guards: _by_id, _by_name, and that the store agrees with them
        self._by_id: dict[str, Task] = {}
        self._by_name: dict[str, Task] = {}

    def restore(self, task: Task) -> None:
        """Put a task that was loaded from the store into service."""
        with self._lock:
            self._by_id[task.id] = self._by_name[task.name] = task

    def find(self, reference: str) -> Task | None:
        """The task of that id or name."""
        return self._by_id.get(reference) or self._by_name.get(reference)

    def get(self, reference: str) -> Task:
        """The task of that id or name.

        Raises:
            TaskNotFound: there is none.
        """
        task = self.find(reference)
        if task is None:
            raise TaskNotFound(f"there is no task {shown(reference)}", task=reference[:200])
        return task

    def reuse(self, record: TaskRecord) -> Task | None:
        """The task that has the record's name, if it does the same work.

        Raises:
            TaskExists: it does other work.
        """
        existing = self._by_name.get(record.name)
        if existing is None or existing.record.same_work(record):
            return existing
        raise TaskExists(
            f"task {shown(record.name)} exists with another spec (digest, limits, environment, runtime_config or "
            "timeout differ); choose another task_name or delete the task",
            task_id=existing.id,
        )

    def check_room(self) -> None:
        """Refuse a new task early where the server has as many as it takes.

        Raises:
            TooManyTasks: it has.
        """
        if len(self._by_id) >= self._most:
            raise TooManyTasks(f"the server holds {self._most} tasks, its bound; delete some")

    def add(self, task: Task) -> Task:
        """Put a new task into service and on disk; the one that exists where another thread was faster.

        Raises:
            TaskExists: the name is taken by other work.
            TooManyTasks: the server has as many tasks as it takes.
        """
        with self._lock:
            existing = self.reuse(task.record)
            if existing is not None:
                return existing
            self.check_room()
            task.record = self._store.add(task.record)
            self._by_id[task.id] = self._by_name[task.name] = task
            return task

    def remove(self, task: Task) -> None:
        """Take a task out of service and off the disk."""
        with self._lock:
            self._store.remove(task.id)
            self._by_id.pop(task.id, None)
            if self._by_name.get(task.name) is task:  # another may have taken the name since
                del self._by_name[task.name]

    def all(self) -> list[Task]:
        """All tasks in the order of their creation."""
        return list(self._by_id.values())

    def page(self, prefix: str, start_after: str, limit: int) -> tuple[list[Task], bool]:
        """Tasks whose name has the prefix, from behind a cursor (`@sequence`) or a task id; and whether more follow.

        Raises:
            InvalidRequest: `start_after` is neither.
        """
        after = self._sequence_of(start_after) if start_after else 0
        found = [task for task in self.all() if task.record.sequence > after and task.name.startswith(prefix)]
        return found[:limit], len(found) > limit

    def _sequence_of(self, start_after: str) -> int:
        if start_after.startswith("@") and start_after[1:].isdecimal() and len(start_after) < 20:
            return int(start_after[1:])
        task = self._by_id.get(start_after)
        if task is None:
            raise InvalidRequest(
                f"start_after {shown(start_after)} is neither a cursor of ours nor a task id"
            )
        return task.record.sequence

    def __len__(self) -> int:
        return len(self._by_id)
