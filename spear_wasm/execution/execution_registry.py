"""The executions that there are: those that wait or run, and what is remembered of those that ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from spear_wasm.board import Board, Seat
from spear_wasm.errors import ExecutionExists
from spear_wasm.execution.counters import Counters, Tally
from spear_wasm.execution.ids import IdSource
from spear_wasm.execution.task import TaskCount, TaskTotal
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.listing import Wanted
    from spear_wasm.execution.records import ExecutionRecord, ExecutionRecords
    from spear_wasm.execution.task import Task


class ExecutionRegistry:
    """Owns which executions exist, by id and by task, and what is counted of them. Thread-safe.

    The manager enters them, drops them and lets them end, with its own lock held; that one may be held around this
    one's, and never the other way round.
    """

    def __init__(
        self,
        records: ExecutionRecords,
        last_sequence: int = 0,
        is_kept: Callable[[str], bool] = lambda _: False,
        seat: Seat | None = None,
    ) -> None:
        """`is_kept` tells whether an id stands for an execution elsewhere, which no suggestion may hide."""
        self._is_kept = is_kept
        self.seat = seat or Board().seat(0)
        self.new_id = IdSource(self.seat.worker).new
        self._lock = threading.Lock()
        # guards: all below, and what tasks know and count of their executions
        self._active: dict[str, Execution] = {}
        self._records = records
        self._last_sequence = last_sequence
        self._counters = Counters()

    # For the manager

    def check_free(self, execution_id: str) -> None:
        """Refuse an id that is in use; the empty one never is.

        Raises:
            ExecutionExists: it is.
        """
        if not execution_id:
            return
        with self._lock:
            if self._is_known(execution_id):
                raise ExecutionExists(
                    f"execution id {shown(execution_id)} is in use", execution_id=execution_id
                )

    def unless_kept(self, suggested_id: str) -> str:
        """The id, if nothing that is kept elsewhere has it; else none. May ask the disk: not for who holds a lock."""
        return "" if suggested_id and self._is_kept(suggested_id) else suggested_id

    def enter(self, execution: Execution, suggested_id: str) -> None:
        """Take in an execution whose id is free; one without gets the one suggested, if that is free, or a new one."""
        with self._lock:
            if not execution.id:
                is_free = suggested_id and not self._is_known(suggested_id)
                execution.id = suggested_id if is_free else self.new_id("exec")
            execution.sequence = execution.sequence or self._next_sequence()
            self._last_sequence = max(self._last_sequence, execution.sequence)
            self._active[execution.id] = execution.task.active[execution.id] = execution

    def _next_sequence(self) -> int:
        """A number that no other process of the server gives."""
        # The clock's time, so that the numbers of an earlier run of the server are lower.
        number = max(self._last_sequence + 1, time.time_ns())
        return number + (self.seat.number - number) % self.seat.board.size

    def _is_known(self, execution_id: str) -> bool:
        return execution_id in self._active or execution_id in self._records

    def drop(self, execution: Execution) -> None:
        """Forget an execution as if it had never been there."""
        with self._lock:
            self._forget(execution)

    def _forget(self, execution: Execution) -> None:
        del self._active[execution.id], execution.task.active[execution.id]

    def end(self, execution: Execution) -> None:
        """Count and remember one that has its outcome."""
        task = execution.task
        assert execution.ended is not None
        assert execution.completed_at is not None
        with self._lock:
            self._forget(execution)
            task.count_end(execution.status, execution.completed_at)
            if not execution.is_durable:
                task.uncounted += 1
            self._counters.count(
                execution.status,
                execution.run_seconds,
                execution.ended - execution.accepted,
                execution.function.name,
                execution.completed_at,
            )
            if not task.deleted:
                self._records.remember(execution)

    def forget_records(self, task: Task) -> int:
        """Forget what is remembered of a task; returns how many records there were."""
        with self._lock:
            return self._records.forget_task(task.id)

    # What there is

    def active(self) -> list[Execution]:
        """All that wait or run."""
        with self._lock:
            return list(self._active.values())

    def find(self, execution_id: str) -> Execution | ExecutionRecord | None:
        """An execution that waits or runs, or what is remembered of one that ended."""
        with self._lock:
            return self._active.get(execution_id) or self._records.get(execution_id)

    def of_task(self, task: Task, limit: int) -> tuple[list[Execution], list[ExecutionRecord]]:
        """A task's executions that wait or run, and the newest that ended: `limit` together."""
        with self._lock:
            active = list(task.active.values())[-limit:] if limit else []
            return active, self._records.newest_of(task.id, limit - len(active))

    def page(self, wanted: Wanted, limit: int) -> list[Execution | ExecutionRecord]:
        """All that wait or run and are wanted, and the first so many of those that ended, in no order."""
        with self._lock:
            active = list(self._active.values())
            records = self._records.page(wanted, limit)
        return [*filter(wanted.fits, active), *records]

    # What is counted

    def average_run_seconds(self) -> float:
        """How long those ran that have ended; 0.0 where none has."""
        return self._counters.average_run_ms / 1000

    def active_tasks(self) -> list[str]:
        """Tasks that have an execution waiting or running, by id."""
        with self._lock:
            return list({execution.task.id for execution in self._active.values()})

    def tally(self, hours: int = 0) -> Tally:
        """What ended within the last so many hours; 0 means since the start."""
        with self._lock:
            return self._counters.since(hours, time.time())

    def count_lost(self, record: ExecutionRecord, task: Task | None) -> None:
        """Count an execution that an earlier run of the server accepted, and that cannot be had an outcome of."""
        with self._lock:
            self._counters.count_lost(record.function, record.completed_at)
            if task is not None:
                task.count_end(record.status, record.completed_at)

    def take_uncounted(self, tasks: Sequence[Task]) -> list[TaskTotal]:
        """What the disk does not know of yet of what tasks have done; from now on it is the caller's to keep."""
        with self._lock:
            totals = [
                TaskTotal(task.id, task.uncounted, task.last_status, task.updated_at / 1000)
                for task in tasks
                if task.uncounted and task.last_status is not None
            ]
            for task in tasks:
                task.uncounted = 0
        return totals

    def counts(self, tasks: Sequence[Task]) -> list[TaskCount]:
        """What there is to tell of tasks that the disk does not know of, where there is anything."""
        with self._lock:
            return [
                TaskCount(
                    task.id,
                    task.uncounted,
                    task.holding.places,
                    task.waiting,
                    task.last_status,
                    task.updated_at / 1000,
                )
                for task in tasks
                if task.uncounted or task.active or task.holding.places
            ]

    def return_uncounted(self, task: Task, ended: int) -> None:
        """The disk has not taken what was taken to be kept there."""
        with self._lock:
            task.uncounted += ended
