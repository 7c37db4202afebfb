"""Executions whose fate is kept on disk: the asynchronous ones, and those that were asked for with a key.

Each is on disk before it is acknowledged, before each time that it begins, and before anybody hears of its
outcome. What a run of the server leaves unfinished the next one takes up.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.errors import JournalFailed, ServerBusy
from spear_wasm.execution.records import ExecutionRecord, record_of
from spear_wasm.execution.retry import Backoff
from spear_wasm.execution.storage import Accepted, StoredCall
from spear_wasm.execution.storage.journal import storable
from spear_wasm.model import ErrorCode
from spear_wasm.scheduling import is_at_share
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear_wasm.execution.execution import Call, Execution
    from spear_wasm.execution.executor import Executor
    from spear_wasm.execution.manager import TaskExecutionManager
    from spear_wasm.execution.storage import ExecutionJournal
    from spear_wasm.execution.task import Task

log = structlog.get_logger()

CANCEL_SECONDS = 10.0
"""More than guests that are cancelled, and the disk, need to come to an end."""
OUTCOME_BACKOFF = Backoff(first=0.05, longest=1.0)
"""For a disk that does not take an outcome."""
OUTCOME_TRIES = 8
"""So often it is tried while those who wait for it are kept waiting: some seconds in all."""
RETRY_AFTER_SECONDS = 1.0


_ON_DISK: Future[None] = Future()
_ON_DISK.set_result(None)
_making_recorded = threading.Lock()  # guards: the making of `_recorded`, of all of them


@dataclass(slots=True, eq=False)
class DurableExecution:
    """An execution that has no outcome on disk yet.

    `size` is of its call, in bytes. `accepted` is done when the disk has the call; where the disk does not take it,
    since it fails or another worker was faster with the key, it is forgotten by then. There may be ten thousand that
    wait, and futures are large: none is there that nobody has asked for, or is done.
    """

    execution: Execution
    digest: bytes
    size: int
    accepted: Future[None] = _ON_DISK
    _recorded: Future[ExecutionRecord | None] | None = None
    _record: ExecutionRecord | None = None

    @property
    def recorded(self) -> Future[ExecutionRecord | None]:
        """Done when the disk has the outcome; None where the server shuts down first, and leaves it to its next run.

        Fails with JournalFailed where the disk has not taken the outcome for long: it is withheld until it has.
        """
        with _making_recorded:
            if self._recorded is None:
                self._recorded = Future()
                if self._record is not None:
                    self._recorded.set_result(self._record)
            return self._recorded

    def set_recorded(self, record: ExecutionRecord) -> None:
        """The disk has the outcome."""
        with _making_recorded:
            self._record, waiting = record, self._recorded
        if waiting is not None:
            waiting.set_result(record)

    @property
    def is_untold(self) -> bool:
        """Whether nobody hears how it ended for now: it is left to the next run of the server, or withheld."""
        return self.execution.is_left or (self._recorded is not None and self._recorded.done())


class DurableExecutions:
    """Hands calls to the manager and keeps the journal of them. Thread-safe."""

    def __init__(
        self,
        manager: TaskExecutionManager,
        executor: Executor,
        journal: ExecutionJournal,
        most_bytes: int,
    ) -> None:
        self._manager = manager
        self._executor = executor
        self.journal = journal
        self._most_bytes = most_bytes
        # guards: all below, and that it holds what the manager has accepted from us
        self._lock = threading.Lock()
        self._open: dict[str, DurableExecution] = {}  # with those that are left to the next run of the server
        self._open_bytes = 0
        self._bytes_of_task: Counter[str] = Counter()

    # Accepting

    def submit(self, call: Call, digest: bytes) -> DurableExecution:
        """Accept a call of a linked task. It runs when the disk has it; where the disk fails it never does.

        `digest` stands for the request; a later one with the same key must have the same.

        Raises:
            ServerBusy: the calls that have not ended hold too many bytes, all or those of the task.
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
            dict(call.environment),
        ).packed()
        with self._lock:
            self._check_room(len(packed), call.task)
            execution = self._manager.hold(call)
            written = self.journal.accept(
                Accepted(execution.id, call.task.id, execution.sequence, digest, packed)
            )
            durable = self._follow(DurableExecution(execution, digest, len(packed), Future()))
        written.add_done_callback(partial(self._on_accepted, durable))
        return durable

    def adopt(self, call: Call, kept: Accepted, pause: float) -> None:
        """Take up a call that an earlier run of the server has kept; it joins the line after so many seconds.

        Raises:
            SpearError: whatever the manager has against the call.
        """
        with self._lock:
            execution = self._manager.hold(call)
            self._follow(DurableExecution(execution, kept.digest, len(kept.call)))
        self._manager.release(execution, pause)

    def _check_room(self, size: int, task: Task) -> None:
        free, mine = self._most_bytes - self._open_bytes, self._bytes_of_task[task.id]
        if size > free:
            raise ServerBusy(
                f"the calls on disk that have not ended hold {self._open_bytes} bytes, and {size} more are too many: "
                f"the server's bound is {self._most_bytes}",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if is_at_share(mine, free):
            raise ServerBusy(
                f"the calls of task {shown(task.name)} on disk that have not ended hold {mine} bytes, its share of "
                f"{self._most_bytes}",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def _follow(self, durable: DurableExecution) -> DurableExecution:
        execution = durable.execution
        self._open[execution.id] = durable
        self._count(durable, durable.size)
        execution.before_attempt = partial(self._before_attempt, execution)
        execution.add_done_callback(partial(self._on_end, durable))
        return durable

    def _count(self, durable: DurableExecution, size: int) -> None:
        task_id = durable.execution.task.id
        self._open_bytes += size
        self._bytes_of_task[task_id] += size
        if not self._bytes_of_task[task_id]:
            del self._bytes_of_task[task_id]

    def _on_accepted(self, durable: DurableExecution, written: Future[None]) -> None:
        """The disk has a call, or does not take it: then it never was one. Only now may it begin, or end."""
        accepted, error = durable.accepted, written.exception()
        if error is None:
            durable.accepted = _ON_DISK
            accepted.set_result(None)
            self._manager.release(durable.execution)
        else:
            self._manager.withdraw(durable.execution)
            self._forget(durable)
            accepted.set_exception(error)

    def open(self, execution_id: str) -> DurableExecution | None:
        """The durable execution of that id that has no outcome on disk yet."""
        with self._lock:
            return self._open.get(execution_id)

    def untold(self) -> list[Execution]:
        """Executions that the manager is done with, and of whose ends nobody is told for now."""
        with self._lock:
            return [each.execution for each in self._open.values() if each.is_untold]

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
            durable.recorded.set_result(None)
        else:
            self._keep_outcome(durable, record_of(execution), tries=1)

    def _keep_outcome(self, durable: DurableExecution, record: ExecutionRecord, tries: int) -> None:
        """Write an outcome, and try again for as long as the disk does not take it: nobody hears of it before.

        Those who wait are sent away after a while. So whatever the next run of the server says, should this one end
        before the disk is back, is the first that anybody hears.
        """

        def on_written(written: Future[None]) -> None:
            error = written.exception()
            if error is None:
                self._forget(durable)
                if tries <= OUTCOME_TRIES:
                    durable.set_recorded(record)
                return
            if tries == OUTCOME_TRIES:
                log.error("outcome withheld", execution_id=record.execution_id, error=str(error))
                durable.recorded.set_exception(_withheld(record.execution_id))
            pause = OUTCOME_BACKOFF.pause(tries, chance=1)
            self._executor.at(
                time.monotonic() + pause, lambda: self._keep_outcome(durable, record, tries + 1)
            )

        self.journal.ended(record).add_done_callback(on_written)

    def _forget(self, durable: DurableExecution) -> None:
        with self._lock:
            del self._open[durable.execution.id]
            self._count(durable, -durable.size)

    # The end of this run of the server

    def suspend(self) -> None:
        """Leave what has not begun to the next run of the server. The manager accepts nothing more by now.

        But for what is to end as soon as the disk has it.
        """
        with self._lock:
            left = [each for each in self._open.values() if each.execution.kill_fault is None]
        for durable in left:
            self._manager.withdraw(durable.execution)


def _withheld(execution_id: str) -> JournalFailed:
    return JournalFailed(
        "the execution has ended, but the disk has not taken its outcome yet; ask again for it, or with its key",
        retry_after=RETRY_AFTER_SECONDS,
        execution_id=execution_id,
    )
