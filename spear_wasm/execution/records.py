"""Executions that ended, as far as they are remembered: the newest, up to a bound."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from spear_wasm.execution.execution import Execution
    from spear_wasm.model import ExecutionStatus

MAX_MESSAGE_CHARS = 200


class ExecutionRecord(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of an execution. Times are seconds since the epoch."""

    execution_id: str
    task_id: str
    function: str
    status: ExecutionStatus
    started_at: float | None
    completed_at: float
    execution_time_ms: int
    memory_used_bytes: int
    error_message: str


def record_of(execution: Execution) -> ExecutionRecord:
    """The record of an execution that has ended."""
    assert execution.outcome is not None
    assert execution.completed_at is not None
    return ExecutionRecord(
        execution.id,
        execution.task.id,
        execution.function.name,
        execution.outcome.status,
        execution.started_at,
        execution.completed_at,
        round(execution.run_seconds * 1000),
        execution.usage.peak_memory_bytes,
        execution.outcome.error_message[:MAX_MESSAGE_CHARS],
    )


class ExecutionRecords:
    """The newest records of all tasks. Not locked: the manager's lock guards it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_id: OrderedDict[str, ExecutionRecord] = OrderedDict()
        self._by_task: dict[str, deque[str]] = {}

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._by_id

    def add(self, record: ExecutionRecord) -> None:
        """Remember one more; the oldest goes where there are too many."""
        self._by_id[record.execution_id] = record
        self._by_task.setdefault(record.task_id, deque()).append(record.execution_id)
        if len(self._by_id) > self._most:
            _, oldest = self._by_id.popitem(last=False)
            # Records leave in the order in which they came, within each task too.
            line = self._by_task[oldest.task_id]
            line.popleft()
            if not line:
                del self._by_task[oldest.task_id]

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        """A task's newest records, newest first."""
        line = self._by_task.get(task_id, deque())
        return [self._by_id[execution_id] for execution_id in itertools.islice(reversed(line), limit)]

    def forget_task(self, task_id: str) -> int:
        """Forget a task's records; returns how many there were."""
        ids = self._by_task.pop(task_id, deque())
        for execution_id in ids:
            del self._by_id[execution_id]
        return len(ids)
