"""Executions that ended, as far as they are remembered: the newest, up to a bound."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import msgspec

from spear_wasm.model import ExecutionMode, ExecutionStatus, Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spear_wasm.execution.execution import Execution


class ExecutionRecord(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of an execution that ended. Times ending in `_at` are seconds since the epoch."""

    execution_id: str
    task_id: str
    function: str
    mode: ExecutionMode
    sequence: int
    sandbox_id: str
    started_at: float | None
    completed_at: float
    run_seconds: float
    queue_seconds: float
    outcome: Outcome
    usage: Usage
    attempts: int = 1

    @property
    def status(self) -> ExecutionStatus:
        """How it ended."""
        return self.outcome.status

    @property
    def size(self) -> int:
        """About how many bytes it holds that a guest chose."""
        outcome, usage = self.outcome, self.usage
        size = len(usage.stdout) + len(usage.stderr) + len(outcome.error_message)
        for result in outcome.values:
            if isinstance(result.value, bytes):
                size += len(result.value)
        return size


def record_of(execution: Execution) -> ExecutionRecord:
    """The record of an execution that has ended."""
    assert execution.outcome is not None
    assert execution.completed_at is not None
    return ExecutionRecord(
        execution.id,
        execution.task.id,
        execution.function.name,
        execution.mode,
        execution.sequence,
        execution.sandbox_id,
        execution.started_at,
        execution.completed_at,
        execution.run_seconds,
        execution.queue_seconds,
        execution.outcome,
        execution.usage,
        execution.attempts,
    )


class ExecutionRecords:
    """The newest records of all tasks. Not locked: the manager's lock guards it."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._by_id: OrderedDict[str, ExecutionRecord] = OrderedDict()
        self._by_task: dict[str, deque[str]] = {}

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._by_id

    def get(self, execution_id: str) -> ExecutionRecord | None:
        """The record of that id."""
        return self._by_id.get(execution_id)

    def all(self) -> Iterable[ExecutionRecord]:
        """All records in the order in which they came."""
        return self._by_id.values()

    def add(self, record: ExecutionRecord) -> None:
        """Remember one more; the oldest go where there are too many, or too large ones."""
        self._by_id[record.execution_id] = record
        self._by_task.setdefault(record.task_id, deque()).append(record.execution_id)
        self._bytes += record.size
        if len(self._by_id) > self._most:
            self._drop_oldest()
        while self._bytes > self._most_bytes and len(self._by_id) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._by_id.popitem(last=False)
        self._bytes -= oldest.size
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
            self._bytes -= self._by_id.pop(execution_id).size
        return len(ids)
