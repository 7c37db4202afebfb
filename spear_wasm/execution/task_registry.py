"""The tasks in service, by id and by name, and on disk, where all workers of the server find them."""

from __future__ import annotations

import threading

from spear_wasm.board import Board, News, Seat
from spear_wasm.errors import InvalidRequest, TaskExists, TaskNotFound, TooManyTasks
from spear_wasm.execution.listing import sequence_in
from spear_wasm.execution.storage import TaskStore
from spear_wasm.execution.task import Task, TaskRecord
from spear_wasm.values import shown


class TaskRegistry:
    """Owns which tasks exist. Thread-safe."""

    def __init__(self, store: TaskStore, most: int, seat: Seat | None = None) -> None:
        self._store = store
        self._most = most
        self.seat = seat or Board().seat(0)
        # guards: all below, and that the store agrees with them on what this process has changed
        self._lock = threading.Lock()
        self._read_up_to = 0  # what the store had when it was last compared with
        self._unfit: set[str] = set()
        self._by_id: dict[str, Task] = {}
        self._by_name: dict[str, Task] = {}

    def come(self) -> list[TaskRecord]:
        """What has come into the store since it was last asked for, and is not in service."""
        with self._lock:
            records = self._store.load(self._read_up_to)
            if records:
                self._read_up_to = records[-1].sequence
            return [each for each in records if each.task_id not in self._by_id]

    def gone(self) -> list[Task]:
        """What is in service, and no longer in the store."""
        with self._lock:
            there = self._store.ids()
            self._unfit &= there
            return [task for task in self._by_id.values() if task.id not in there]

    def restore(self, task: Task) -> None:
        """Put a task that was loaded from the store into service."""
        with self._lock:
            self._by_id[task.id] = self._by_name[task.name] = task

    def leave_out(self, record: TaskRecord) -> None:
        """Let a task be that was loaded from the store, and cannot be put into service."""
        with self._lock:
            self._unfit.add(record.task_id)

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
        """The task that has the record's name, if it does the same work; one that is being deleted has none.

        Raises:
            TaskExists: it does other work.
        """
        existing = self._by_name.get(record.name)
        if existing is None or existing.deleted:
            return None
        if existing.record.same_work(record):
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
            NameTakenElsewhere: another worker was faster; its task is among those that have `come`.
            TaskExists: the name is taken by other work.
            TooManyTasks: the server has as many tasks as it takes.
        """
        with self._lock:
            existing = self.reuse(task.record)
            if existing is not None:
                return existing
            task.record = self._store.add(task.record, self._most, self._is_known)
            self._by_id[task.id] = self._by_name[task.name] = task
        self.seat.tell(News.NEW_TASKS)
        return task

    def _is_known(self, task_id: str) -> bool:
        return task_id in self._by_id or task_id in self._unfit

    def remove(self, task: Task) -> None:
        """Take a task out of service and off the disk."""
        with self._lock:
            self._store.remove(task.id)
            self._drop(task)
        self.seat.tell(News.ENDED_TASKS)

    def drop(self, task: Task) -> None:
        """Take a task out of service that is gone from the disk."""
        with self._lock:
            self._drop(task)

    def _drop(self, task: Task) -> None:
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
        place = sequence_in(start_after)
        if place is not None:
            return place
        task = self._by_id.get(start_after)
        if task is None:
            raise InvalidRequest(
                f"start_after {shown(start_after)} is neither a cursor of ours nor a task id"
            )
        return task.record.sequence

    def __len__(self) -> int:
        return len(self._by_id)
