"""What becomes of the executions that somebody has left unfinished: the last run of the server, or a worker."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from spear_wasm.engine.outcome import failure
from spear_wasm.errors import JournalFailed, ServerDraining, SpearError
from spear_wasm.execution.execution import Call, Earlier
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.execution.retry import RetryPolicy
from spear_wasm.model import ErrorCode, ExecutionMode, Outcome, Usage

if TYPE_CHECKING:
    from spear_wasm.execution.durable import DurableExecutions
    from spear_wasm.execution.execution_registry import ExecutionRegistry
    from spear_wasm.execution.manager import TaskExecutionManager
    from spear_wasm.execution.registration import TaskRegistration
    from spear_wasm.execution.storage import Unfinished
    from spear_wasm.execution.task_registry import TaskRegistry

LOST = failure(ErrorCode.WORKER_LOST, "the server stopped while the execution ran")


class Recovery:
    """Takes up what is unfinished: what waited waits again, what ran is lost.

    What was lost begins again, after a pause, where its call allows for one more attempt.
    """

    def __init__(
        self,
        durable: DurableExecutions,
        manager: TaskExecutionManager,
        executions: ExecutionRegistry,
        tasks: TaskRegistry,
        registration: TaskRegistration,
    ) -> None:
        self._durable = durable
        self._manager = manager
        self._executions = executions
        self._tasks = tasks
        self._registration = registration
        self._lock = threading.Lock()  # guards: _unwritten
        self._unwritten: dict[str, ExecutionRecord] = {}
        """Outcomes that the disk has not taken, by their executions' ids."""

    def take_over(self, gone: int, part: int, parts: int) -> None:
        """Take up a part of what a worker has left that is gone; 0 is an earlier run.

        What is lost for good has its outcome on disk when this returns. Thread-safe.

        Raises:
            JournalFailed: the disk did not take something; to be called again with the same.
        """
        lost: list[ExecutionRecord] = []
        for unfinished in self._durable.journal.take_over(gone, part, parts).result():
            outcome = _lost(unfinished) or self._resume(unfinished)
            if outcome is not None:
                lost.append(_record_of_lost(unfinished, outcome))
        self._write(lost)

    def _write(self, lost: list[ExecutionRecord]) -> None:
        with self._lock:
            records = self._unwritten | {record.execution_id: record for record in lost}
            self._unwritten = {}
        ends = [(record, self._durable.journal.ended(record)) for record in records.values()]
        failed: JournalFailed | None = None
        for record, end in ends:
            try:
                end.result()
            except JournalFailed as error:
                failed = error
                with self._lock:
                    self._unwritten[record.execution_id] = record
            else:
                self._executions.count_lost(record, self._tasks.find(record.task_id))
        if failed is not None:
            raise failed

    def _resume(self, unfinished: Unfinished) -> Outcome | None:
        """Put an execution into the line again; the outcome that it has where that cannot be."""
        try:
            call = self._call_of(unfinished)
            pause = self._manager.pause_after_loss(call, LOST) if unfinished.was_running else 0.0
            if pause is None:
                return LOST
            self._durable.adopt(call, unfinished.accepted, pause)
        except ServerDraining:
            return None  # it stays unfinished on disk: for another worker, or the next run of the server
        except SpearError as error:
            return failure(ErrorCode.INSTANCE_FAILED, f"not to be run any more: {error.message}")
        return None

    def _call_of(self, unfinished: Unfinished) -> Call:
        accepted = unfinished.accepted
        stored = accepted.stored_call()
        task = self._tasks.get(accepted.task_id)
        self._registration.link(task, metered=(task.limits.max_fuel or stored.limits.max_fuel) != 0)
        return Call(
            task,
            stored.function,
            stored.given(),
            stored.limits,
            stored.budget_ms,
            accepted.execution_id,
            force_new_instance=stored.force_new_instance,
            priority=stored.priority,
            mode=stored.mode,
            max_retries=stored.max_retries,
            earlier=Earlier(accepted.sequence, unfinished.attempts, unfinished.started_at),
            environment=stored.environment,
        )


def _lost(unfinished: Unfinished) -> Outcome | None:
    """The outcome of what was running when the server was lost, where it may not begin again."""
    call = unfinished.accepted.stored_call()
    # Nobody knows what the reader of a streamed one has been told before.
    begins_again = call.mode is not ExecutionMode.STREAM and RetryPolicy(call.max_retries).allows_another(
        unfinished.attempts
    )
    return LOST if unfinished.was_running and not begins_again else None


def _record_of_lost(unfinished: Unfinished, outcome: Outcome) -> ExecutionRecord:
    accepted = unfinished.accepted
    call = accepted.stored_call()
    return ExecutionRecord(
        accepted.execution_id,
        accepted.task_id,
        call.function,
        call.mode,
        accepted.sequence,
        sandbox_id="",
        started_at=unfinished.started_at,
        completed_at=time.time(),
        run_seconds=0.0,
        queue_seconds=0.0,
        outcome=outcome,
        usage=Usage(),
        attempts=unfinished.attempts,
    )
