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
from spear_wasm.errors import SpearError
from spear_wasm.execution.execution import Call, Earlier
from spear_wasm.execution.journal import Accepted, StoredCall, Unfinished, in_use, storable
from spear_wasm.execution.records import ExecutionRecord, record_of
from spear_wasm.execution.retry import RetryPolicy
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


@dataclass(frozen=True, slots=True, eq=False)
class DurableExecution:
    """An execution that has no outcome on disk yet.

    `accepted` is done when the disk has the call, `recorded` when it has the outcome; None is its result where
    the server shuts down before the execution began.
    """

    execution: Execution
    digest: bytes
    accepted: Future[None]
    recorded: Future[ExecutionRecord | None] = field(default_factory=Future)


class DurableExecutions:
    """Hands calls to the manager and keeps the journal of them. Thread-safe."""

    def __init__(self, manager: TaskExecutionManager, journal: ExecutionJournal) -> None:
        self._manager = manager
        self.journal = journal
        # guards: _open, and that it holds what the manager has accepted from us. Reentrant: an execution may be
        # withdrawn before it is followed, and tells so at once.
        self._lock = threading.RLock()
        self._open: dict[str, DurableExecution] = {}

    # Accepting

    def submit(self, call: Call, digest: bytes) -> DurableExecution:
        """Accept a call of a linked task. It runs when the disk has it; where the disk fails it never does.

        `digest` stands for the request; a later one with the same key must have the same.

        Raises:
            SpearError: whatever the manager has against the call.
        """
        with self._lock:
            execution = self._manager.hold(call)
            stored = StoredCall(
                call.function,
                call.mode,
                storable(call.parameters),
                call.limits,
                call.budget_ms,
                call.force_new_instance,
                call.priority,
                call.max_retries,
            )
            accepted = self.journal.accept(
                Accepted(execution.id, call.task.id, execution.sequence, digest, stored)
            )
            durable = self._follow(execution, digest, accepted)
        accepted.add_done_callback(partial(self._on_accepted, execution))
        return durable

    def _follow(self, execution: Execution, digest: bytes, accepted: Future[None]) -> DurableExecution:
        durable = self._open[execution.id] = DurableExecution(execution, digest, accepted)
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
        record = record_of(execution)
        self.journal.ended(record).add_done_callback(partial(self._on_end_written, durable, record))

    def _on_end_written(
        self, durable: DurableExecution, record: ExecutionRecord, written: Future[None]
    ) -> None:
        error = written.exception()
        if error is not None:
            log.error("outcome not kept", execution_id=record.execution_id, error=str(error))
        self._close(durable, record)

    def _close(self, durable: DurableExecution, record: ExecutionRecord | None) -> None:
        with self._lock:
            del self._open[durable.execution.id]
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
        ends: list[Future[None]] = []
        for unfinished in self.journal.unfinished():
            outcome = _lost(unfinished) or self._resume(unfinished, tasks, registration)
            if outcome is not None:
                ends.append(self.journal.ended(_record_without_run(unfinished.accepted, outcome)))
        for end in ends:
            end.result()

    def _resume(
        self, unfinished: Unfinished, tasks: TaskRegistry, registration: TaskRegistration
    ) -> Outcome | None:
        """Put an execution into the line again; the outcome that it has where that cannot be."""
        accepted = unfinished.accepted
        stored = accepted.call
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
                earlier=Earlier(accepted.sequence, unfinished.attempts),
            )
            on_disk: Future[None] = Future()
            on_disk.set_result(None)
            with self._lock:
                execution = self._manager.hold(call)
                self._follow(execution, accepted.digest, on_disk)
            self._manager.release(execution)
        except SpearError as error:
            return failure(ErrorCode.INSTANCE_FAILED, f"not to be run any more: {error.message}")
        return None


def _lost(unfinished: Unfinished) -> Outcome | None:
    """The outcome of what was running when the server was lost, where it may not begin again."""
    policy = RetryPolicy(unfinished.accepted.call.max_retries)
    if not unfinished.was_running or policy.allows_another(unfinished.attempts):
        return None
    return failure(ErrorCode.WORKER_LOST, "the server stopped while the execution ran")


def _record_without_run(accepted: Accepted, outcome: Outcome) -> ExecutionRecord:
    return ExecutionRecord(
        accepted.execution_id,
        accepted.task_id,
        accepted.call.function,
        accepted.call.mode,
        accepted.sequence,
        sandbox_id="",
        started_at=None,
        completed_at=time.time(),
        run_seconds=0.0,
        queue_seconds=0.0,
        outcome=outcome,
        usage=Usage(),
    )
