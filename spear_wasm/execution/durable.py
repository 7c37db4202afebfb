"""Executions whose fate is kept on disk: the asynchronous ones, and those that were asked for with a key.

Each is on disk before it is acknowledged, before each time that it begins, and before anybody hears of its
outcome. What a run of the server leaves unfinished the next one takes up.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from spear_wasm.engine.outcome import GuestFault, failure
from spear_wasm.errors import ServerBusy, SpearError
from spear_wasm.execution.execution import Call, Earlier
from spear_wasm.execution.journal import Accepted, StoredCall, Unfinished, in_use, storable
from spear_wasm.execution.records import ExecutionRecord, record_of
from spear_wasm.execution.retry import Backoff, RetryPolicy
from spear_wasm.model import ErrorCode, Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.journal import ExecutionJournal
    from spear_wasm.execution.manager import TaskExecutionManager
    from spear_wasm.execution.registration import TaskRegistration
    from spear_wasm.execution.task_registry import TaskRegistry

log = structlog.get_logger()

CANCEL_SECONDS = 10.0
"""More than guests that are cancelled, and the disk, need to come to an end."""
OUTCOME_RETRIES = 7
OUTCOME_BACKOFF = Backoff(first=0.05, longest=1.0)
"""For a disk that does not take an outcome: some seconds in all."""
RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class DurableExecution:
    """An execution that has no outcome on disk yet.

    `size` is of its call, in bytes. `accepted` is done when the disk has the call, `recorded` when it has the outcome;
    None is its result where the server shuts down first, and leaves the execution to its next run.
    """

    execution: Execution
    digest: bytes
    size: int
    accepted: Future[None]
    recorded: Future[ExecutionRecord | None] = field(default_factory=Future)


class DurableExecutions:
    """Hands calls to the manager and keeps the journal of them. Thread-safe."""

    def __init__(self, manager: TaskExecutionManager, journal: ExecutionJournal, most_bytes: int) -> None:
        self._manager = manager
        self.journal = journal
        self._most_bytes = most_bytes
        # guards: _open, _open_bytes, and that they hold what the manager has accepted from us. Reentrant: an
        # execution may be withdrawn before it is followed, and tells so at once.
        self._lock = threading.RLock()
        self._open: dict[str, DurableExecution] = {}
        self._open_bytes = 0

    # Accepting

    def submit(self, call: Call, digest: bytes) -> DurableExecution:
        """Accept a call of a linked task. It runs when the disk has it; where the disk fails it never does.

        `digest` stands for the request; a later one with the same key must have the same.

        Raises:
            ServerBusy: the calls that have not ended hold too many bytes.
            SpearError: whatever the manager has against the call.
        """
        packed = StoredCall(
            call.function,
            call.mode,
            storable(call.parameters),
            call.limits,
            call.budget_ms,
            call.force_new_instance,
            call.priority,
            call.max_retries,
        ).packed()
        with self._lock:
            self._check_room(len(packed))
            execution = self._manager.hold(call)
            accepted = self.journal.accept(
                Accepted(execution.id, call.task.id, execution.sequence, digest, packed)
            )
            durable = self._follow(DurableExecution(execution, digest, len(packed), accepted))
        accepted.add_done_callback(partial(self._on_accepted, execution))
        return durable

    def _check_room(self, size: int) -> None:
        if self._open_bytes + size > self._most_bytes:
            raise ServerBusy(
                f"the calls on disk that have not ended hold {self._open_bytes} bytes, and {size} more are too many: "
                f"the server's bound is {self._most_bytes}",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def _follow(self, durable: DurableExecution) -> DurableExecution:
        execution = durable.execution
        self._open[execution.id] = durable
        self._open_bytes += durable.size
        execution.before_attempt = partial(self._before_attempt, execution)
        execution.add_done_callback(partial(self._on_end, durable))
        return durable

    def _on_accepted(self, execution: Execution, accepted: Future[None]) -> None:
        if accepted.exception() is None:
            self._manager.release(execution)
        else:
            self._manager.withdraw(execution)

    def first(self, execution_id: str, digest: bytes) -> DurableExecution | ExecutionRecord | None:
        """The execution that has this key, or its record; None where the key is free. Waits for the disk.

        Raises:
            ExecutionExists: the key is another request's.
        """
        durable = self.open(execution_id)
        if durable is not None:
            known: tuple[bytes, DurableExecution | ExecutionRecord | None] = durable.digest, durable
        else:
            kept = self.journal.find(execution_id)
            if kept is None:
                return None
            known = kept.digest, kept.record
        if known[0] != digest:
            raise in_use(execution_id)
        return known[1]

    def open(self, execution_id: str) -> DurableExecution | None:
        """The durable execution of that id that has no outcome on disk yet."""
        with self._lock:
            return self._open.get(execution_id)

    def wait_for_end(self, task_id: str) -> None:
        """Return when what a task has yet to do, which is being cancelled, has its outcomes on disk."""
        with self._lock:
            ends = [each.recorded for each in self._open.values() if each.execution.task.id == task_id]
        wait(ends, CANCEL_SECONDS)

    # Its life

    def _before_attempt(self, execution: Execution, run: Callable[[GuestFault | None], None]) -> None:
        def on_written(written: Future[None]) -> None:
            failed = GuestFault(ErrorCode.INSTANCE_FAILED, "the disk failed before the execution began")
            run(None if written.exception() is None else failed)

        self.journal.started(execution.id).add_done_callback(on_written)

    def _on_end(self, durable: DurableExecution, execution: Execution) -> None:
        if execution.outcome is None:
            self._close(durable, None)
            return
        self._keep_outcome(durable, record_of(execution), failed=0)

    def _keep_outcome(self, durable: DurableExecution, record: ExecutionRecord, failed: int) -> None:
        """Write an outcome, which nobody hears of before, or give up on a disk that has failed so many times."""

        def on_written(written: Future[None]) -> None:
            error = written.exception()
            if error is not None and failed < OUTCOME_RETRIES:
                pause = OUTCOME_BACKOFF.pause(failed + 1, chance=1)
                self._manager.later(pause, lambda: self._keep_outcome(durable, record, failed + 1))
                return
            if error is not None:
                log.error("outcome not kept", execution_id=record.execution_id, error=str(error))
            self._close(durable, record)

        self.journal.ended(record).add_done_callback(on_written)

    def _close(self, durable: DurableExecution, record: ExecutionRecord | None) -> None:
        with self._lock:
            del self._open[durable.execution.id]
            self._open_bytes -= durable.size
        durable.recorded.set_result(record)

    # One run of the server after another

    def suspend(self) -> None:
        """Leave what has not begun to the next run of the server. The manager accepts nothing more by now."""
        with self._lock:
            left = list(self._open.values())
        for durable in left:
            self._manager.withdraw(durable.execution)

    def recover(self, tasks: TaskRegistry, registration: TaskRegistration) -> None:
        """Take up what the last run of the server left: what waited waits again, what ran is lost.

        What was lost begins again where its call allows for one more attempt.
        """
        self._recall_totals(tasks)
        ends: list[Future[None]] = []
        for unfinished in self.journal.unfinished():
            outcome = _lost(unfinished) or self._resume(unfinished, tasks, registration)
            if outcome is not None:
                record = _record_of_lost(unfinished, outcome)
                self._manager.count_lost(record, tasks.find(record.task_id))
                ends.append(self.journal.ended(record))
        for end in ends:
            end.result()

    def _recall_totals(self, tasks: TaskRegistry) -> None:
        gone = []
        for total in self.journal.task_totals():
            task = tasks.find(total.task_id)
            if task is None:
                gone.append(total.task_id)
            else:
                task.count_end(total.last_status, total.last_ended_at, total.ended)
        self.journal.forget_totals(gone)

    def _resume(
        self, unfinished: Unfinished, tasks: TaskRegistry, registration: TaskRegistration
    ) -> Outcome | None:
        """Put an execution into the line again; the outcome that it has where that cannot be."""
        accepted = unfinished.accepted
        stored = accepted.stored_call()
        try:
            task = tasks.get(accepted.task_id)
            registration.link(task, metered=(task.limits.max_fuel or stored.limits.max_fuel) != 0)
            call = Call(
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
            )
            on_disk: Future[None] = Future()
            on_disk.set_result(None)
            with self._lock:
                execution = self._manager.hold(call)
                self._follow(DurableExecution(execution, accepted.digest, len(accepted.call), on_disk))
            self._manager.release(execution)
        except SpearError as error:
            return failure(ErrorCode.INSTANCE_FAILED, f"not to be run any more: {error.message}")
        return None


def _lost(unfinished: Unfinished) -> Outcome | None:
    """The outcome of what was running when the server was lost, where it may not begin again."""
    policy = RetryPolicy(unfinished.accepted.stored_call().max_retries)
    if not unfinished.was_running or policy.allows_another(unfinished.attempts):
        return None
    return failure(ErrorCode.WORKER_LOST, "the server stopped while the execution ran")


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
