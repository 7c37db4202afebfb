"""TaskExecutionManager: owns tasks and executions, and the one path from an accepted call to its outcome."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from spear_wasm.engine.outcome import GuestFault, failure
from spear_wasm.engine.sandbox import LARGE_MEMORY_BYTES, Sandbox
from spear_wasm.errors import ExecutionExists, ServerBusy, ServerDraining, TaskBusy, TaskNotFound
from spear_wasm.execution.counters import Counters, Tally
from spear_wasm.execution.execution import Call, Execution, execution_of
from spear_wasm.execution.fiber import Fiber
from spear_wasm.execution.ids import new_id
from spear_wasm.execution.records import ExecutionRecord, records_of_at_most
from spear_wasm.execution.retry import Backoff
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome, TypedValue, Usage
from spear_wasm.pool import Capacity, Pool, Use
from spear_wasm.scheduling import InstanceScheduler, Verdict
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.config import TaskExecutionManagerConfig
    from spear_wasm.execution.executor import Executor
    from spear_wasm.execution.listing import Wanted
    from spear_wasm.execution.task import Linkage, Task

log = structlog.get_logger()

RETRY_AFTER_SECONDS = 0.1
"""The hint given where nothing has ended yet that a better one could be made from."""


@dataclass(frozen=True, slots=True)
class ManagerStats:
    """What the manager counts, at one moment."""

    running: int
    pending: int
    active_tasks: int
    sandboxes: int
    tally: Tally


class TaskExecutionManager:
    """Accepts calls, orders them, runs them in sandboxes and keeps their outcomes.

    `submit` returns an Execution that completes; whoever waits for it needs to know nothing of how. Callers
    may use any thread.
    """

    def __init__(
        self,
        config: TaskExecutionManagerConfig,
        executor: Executor,
        last_sequence: int = 0,
        is_kept: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`is_kept` tells whether an id stands for an execution elsewhere, which no suggestion may hide."""
        self._is_kept = is_kept
        self._config = config
        self._backoff = Backoff(config.first_backoff, config.longest_backoff)
        self._executor = executor
        self._capacity = Capacity(config.max_running, config.total_memory())
        self._lock = threading.Lock()
        # guards: all below, and the mutable parts of tasks and executions
        self._scheduler: InstanceScheduler[Execution] = InstanceScheduler()
        self._active: dict[str, Execution] = {}
        self._records = records_of_at_most(config.max_records, int(config.max_record_bytes))
        self._last_sequence = last_sequence
        self._held: set[Execution] = set()
        self._pausing: set[Execution] = set()  # between two attempts
        self._counters = Counters()
        self._running = 0
        self._preparing: set[Fiber] = set()
        self._draining = False
        self._all_ended = threading.Condition(self._lock)

    # Accepting

    def submit(self, call: Call, *, on_the_spot: bool = False) -> Execution:
        """Accept a call of a linked task; its execution may have ended when this returns.

        With `on_the_spot` the calling thread may run a guest that is expected to be quick. It must not be a
        thread where KeyboardInterrupt can be raised.

        Raises:
            InvalidRequest, FunctionNotFound: the call does not fit the task.
            ExecutionExists: its execution id is in use.
            ServerBusy: the line is full.
            ServerDraining: the server is shutting down.
            TaskNotFound: the task was deleted meanwhile.
        """
        execution = execution_of(call)
        with self._lock:
            self._admit(execution, call)
            starts = not len(self._scheduler) and self._judge(execution) is Verdict.START
            if starts:
                self._begin(execution)
            else:
                self._wait_in_line(execution)
        if starts:
            self._run(execution, on_the_spot=on_the_spot and execution.function.is_quick)
        else:
            self._start_waiting()
        return execution

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something short after a while, unless the server has stopped by then."""
        self._executor.at(time.monotonic() + seconds, action)

    def hold(self, call: Call) -> Execution:
        """Accept a call as `submit` does, but let it wait beside the line until it is released."""
        execution = execution_of(call)
        with self._lock:
            self._admit(execution, call)
            self._held.add(execution)
        return execution

    def release(self, execution: Execution) -> None:
        """Let an execution that is held into the line; nothing happens to one that has ended there."""
        with self._lock:
            if execution not in self._held:
                return
            self._held.discard(execution)
            self._wait_in_line(execution)
        self._start_waiting()

    def withdraw(self, execution: Execution) -> bool:
        """Take back an execution that has not begun, as if it had not been accepted; whether that was so."""
        with self._lock:
            waited = self._leave_line(execution)
            if waited:
                self._forget(execution)
        if waited:
            self._cancel_timer(execution)
            execution.set_done()
            self._start_waiting()
        return waited

    def check_open(self) -> None:
        """Whether a call might be accepted now: for those who prepare something for one.

        Raises:
            ServerBusy, ServerDraining: as `submit` would.
        """
        with self._lock:
            self._refuse_if_draining()
            self._refuse_if_full()

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise ServerDraining("the server is shutting down and accepts no calls")

    def _refuse_if_full(self) -> None:
        waiting = len(self._scheduler) + len(self._held) + len(self._pausing)
        if waiting >= self._config.max_pending:
            raise ServerBusy(
                f"{waiting} executions wait already, the server's bound",
                retry_after=self._retry_after(),
            )

    def _admit(self, execution: Execution, call: Call) -> None:
        task = execution.task
        self._refuse_if_draining()
        if task.deleted:
            raise TaskNotFound(f"task {shown(task.name)} was deleted")
        if execution.id and self._is_known(execution.id):
            raise ExecutionExists(f"execution id {shown(execution.id)} is in use", execution_id=execution.id)
        if (
            not execution.sequence
        ):  # what an earlier run of the server has accepted is not refused by this one
            self._refuse_if_full()
        if not execution.id:
            suggested = call.suggested_id
            is_free = suggested and not self._is_known(suggested) and not self._is_kept(suggested)
            execution.id = suggested if is_free else new_id("exec")
        # The clock's time, so that the numbers of an earlier run of the server are lower.
        execution.sequence = execution.sequence or max(self._last_sequence + 1, time.time_ns())
        self._last_sequence = max(self._last_sequence, execution.sequence)
        self._active[execution.id] = task.active[execution.id] = execution

    def _forget(self, execution: Execution) -> None:
        del self._active[execution.id], execution.task.active[execution.id]

    def _is_known(self, execution_id: str) -> bool:
        return execution_id in self._active or execution_id in self._records

    def _retry_after(self) -> float:
        """About the time in which a quarter of the line will have gone, going by how long runs have taken."""
        average = self._counters.total.average_run_ms / 1000
        estimate = average * len(self._scheduler) / 4 / max(1, self._running)
        return min(max(RETRY_AFTER_SECONDS, estimate), 10.0)

    def _wait_in_line(self, execution: Execution) -> None:
        self._scheduler.add(
            execution.task, execution, deadline=execution.deadline, priority=execution.priority
        )
        execution.timer = self._executor.at(execution.deadline, lambda: self._expire(execution))

    def _judge(self, execution: Execution) -> Verdict:
        """Whether an execution may start now; takes room on the server for it if so."""
        if execution.task.running >= execution.task.limits.max_concurrency:
            return Verdict.TASK_IS_FULL
        if not self._capacity.try_take(execution.memory_reserved):
            return Verdict.SERVER_IS_FULL
        return Verdict.START

    # Running

    def _begin(self, execution: Execution) -> None:
        execution.lifecycle.move(ExecutionStatus.RUNNING)
        execution.attempts += 1
        execution.started = time.monotonic()
        if execution.started_at is None:
            execution.started_at = time.time()
        execution.task.running += 1
        self._running += 1

    def _run(self, execution: Execution, *, on_the_spot: bool) -> None:
        """Make an attempt, once whoever wants to hear of it first has. The execution holds its room."""
        self._cancel_timer(execution)
        if execution.before_attempt is None:
            self._start(execution, on_the_spot=on_the_spot)
        else:
            execution.before_attempt(lambda fault: self._start_or_fail(execution, fault))

    def _start_or_fail(self, execution: Execution, fault: GuestFault | None) -> None:
        if fault is None:
            self._start(execution, on_the_spot=False)
        else:
            self._executor.defer(lambda: self._over_without_guest(execution, fault, self._conclude))

    def _start(self, execution: Execution, *, on_the_spot: bool) -> None:
        """Get a sandbox and start its fiber."""
        task = execution.task
        linkage = task.linkages.get(execution.limits.max_fuel != 0)
        if linkage is None:  # its artifact or its task was removed while it waited
            # Later, since its end may start the next one, which may have to end like this one, and so on.
            removed = GuestFault(ErrorCode.INSTANCE_FAILED, "the task's artifact was removed")
            self._executor.defer(lambda: self._over_without_guest(execution, removed, self._end))
            return
        pool = linkage.pool
        sandbox = pool.take(execution.limits, fresh=execution.force_new_instance)
        sandbox.name = execution.sandbox_id = sandbox.name or new_id("sandbox")

        def ended(fiber: Fiber, outcome: Outcome, usage: Usage) -> None:
            self._on_guest_ended(execution, pool, fiber, outcome, usage)

        fiber = Fiber(
            sandbox,
            _guest_run(execution, sandbox, linkage),
            deadline=execution.deadline,
            cpu_limit_ms=execution.limits.max_cpu_time_ms,
            on_end=ended,
            share=task.share,
        )
        with self._lock:
            execution.fiber = fiber
            fiber.kill_fault = execution.kill_fault
        self._executor.start(fiber, on_the_spot=on_the_spot)

    def _over_without_guest(
        self, execution: Execution, fault: GuestFault, conclude: Callable[[Execution, Outcome, Usage], None]
    ) -> None:
        try:
            conclude(execution, (execution.kill_fault or fault).outcome(), Usage())
        finally:
            self._release(execution)

    def _on_guest_ended(
        self, execution: Execution, pool: Pool, fiber: Fiber, outcome: Outcome, usage: Usage
    ) -> None:
        large = usage.peak_memory_bytes > LARGE_MEMORY_BYTES
        quick = fiber.timer is None or fiber.cpu_ns < 500_000
        execution.function.quick_streak = execution.function.quick_streak + 1 if quick and not large else 0
        ended_well = outcome.status is ExecutionStatus.COMPLETED
        use = Use(execution.run_seconds - execution.ran, usage.cpu_ns) if ended_well else None
        # Before anybody hears of the end, so that a caller's next call finds what this one left.
        kept = pool.give_back(fiber.sandbox, use)
        if large and not kept:
            # Clearing its memory takes a while: the answer does not wait for it, nor do others' deadlines.
            try:
                self._conclude(execution, outcome, usage)
            finally:
                self._executor.defer(lambda: self._close(execution, fiber.sandbox))
        else:
            if not kept:
                fiber.sandbox.close()
            try:
                self._conclude(execution, outcome, usage)
            finally:
                self._release(execution)

    def _close(self, execution: Execution, sandbox: Sandbox) -> None:
        sandbox.close()
        self._release(execution)

    def _release(self, execution: Execution) -> None:
        """Give up the room of an execution that began, and let others have it."""
        self._capacity.give_back(execution.memory_reserved)
        with self._lock:
            execution.task.running -= 1
            self._running -= 1
            waiting = len(self._scheduler)
            if not self._running:
                self._all_ended.notify_all()
        if waiting:
            self._start_waiting()

    def _start_waiting(self) -> None:
        while True:
            with self._lock:
                execution = self._scheduler.take_next(self._judge)
                if execution is None:
                    return
                self._begin(execution)
            self._run(execution, on_the_spot=False)

    # Beginning again

    def _conclude(self, execution: Execution, outcome: Outcome, usage: Usage) -> None:
        """An attempt is over, and with it the execution, unless another one is to be made."""
        if not execution.retry.max_retries or outcome.status is not ExecutionStatus.FAILED:
            self._end(execution, outcome, usage)
            return
        with self._lock:
            pause = self._pause_after(execution, outcome)
            if pause is not None and execution.kill_fault is not None:  # which came too late for the guest
                outcome = execution.kill_fault.outcome()
                pause = self._pause_after(execution, outcome)
            goes_on = pause is not None and (execution.is_durable or not self._draining)
            is_left = goes_on and self._draining
            if is_left:
                self._forget(execution)
            elif pause is not None and goes_on:
                self._pause(execution, outcome, usage, pause)
        if is_left:
            execution.set_done()
        elif not goes_on:
            self._end(execution, outcome, usage)
        else:
            _log_failed_attempt(execution, outcome)

    def _pause_after(self, execution: Execution, outcome: Outcome) -> float | None:
        # The next run of the server will grant the whole of its time again.
        seconds_left = math.inf if self._draining else execution.deadline - time.monotonic()
        return execution.pause_after(outcome, seconds_left, self._backoff, random.random())  # noqa: S311  no secret

    def _pause(self, execution: Execution, outcome: Outcome, usage: Usage, seconds: float) -> None:
        """Put an execution aside, without room of its own, until it joins the line again."""
        execution.lifecycle.move(ExecutionStatus.PENDING)
        execution.ran, execution.started = execution.run_seconds, None
        execution.add_usage(usage)
        execution.failed = outcome
        execution.fiber = None
        self._pausing.add(execution)
        execution.timer = self._executor.at(time.monotonic() + seconds, lambda: self._begin_again(execution))

    def _begin_again(self, execution: Execution) -> None:
        with self._lock:
            if execution not in self._pausing:
                return
            self._pausing.discard(execution)
            self._wait_in_line(execution)
        self._start_waiting()

    # Ending

    def _end(self, execution: Execution, outcome: Outcome, usage: Usage) -> None:
        """Set the one outcome of an execution, and tell whoever waits for it."""
        task = execution.task
        with self._lock:
            execution.lifecycle.move(outcome.status)
            execution.ended, execution.completed_at = time.monotonic(), time.time()
            execution.add_usage(usage)
            execution.outcome = outcome
            execution.fiber = None
            self._forget(execution)
            task.count_end(outcome.status, execution.completed_at)
            self._counters.count(
                outcome.status,
                execution.run_seconds,
                execution.ended - execution.accepted,
                execution.function.name,
                execution.completed_at,
            )
            if not task.deleted:
                self._records.remember(execution)
        execution.set_done()
        _log_end(execution, outcome, execution.usage)

    def _expire(self, execution: Execution) -> None:
        """The budget of a waiting execution is used up."""
        self._end_waiting(
            execution,
            failure(ErrorCode.TIMEOUT, "the execution's time budget ended while it waited in the line"),
        )

    def _leave_line(self, execution: Execution) -> bool:
        waited = False
        for aside in (self._held, self._pausing):
            waited = waited or execution in aside
            aside.discard(execution)
        waited = waited or self._scheduler.remove(execution.task, execution)
        if waited and not len(self._scheduler):
            self._all_ended.notify_all()
        return waited

    def _cancel_timer(self, execution: Execution) -> None:
        if execution.timer is not None:
            self._executor.cancel_timer(execution.timer)

    def _end_waiting(self, execution: Execution, outcome: Outcome) -> bool:
        with self._lock:
            waited = self._leave_line(execution)
        if waited:
            self._cancel_timer(execution)
            self._end(execution, outcome, Usage())
            # It may have been what held up the line.
            self._start_waiting()
        return waited

    def cancel(self, execution: Execution, reason: str) -> None:
        """End an execution, waiting or running; nothing happens to one that has ended."""
        self.kill(execution, GuestFault(ErrorCode.CANCELLED, reason))

    def kill(self, execution: Execution, fault: GuestFault) -> None:
        """The same with another fault."""
        with self._lock:
            # First, so that an attempt that ends now is not followed by another one after a pause.
            fiber, execution.kill_fault = execution.fiber, fault
        if not self._end_waiting(execution, fault.outcome()) and fiber is not None:
            self._executor.kill(fiber, fault)

    # Preparing sandboxes ahead

    def prepare_later(
        self, task: Task, prepare: Callable[[Sandbox], Generator[None, None, None]]
    ) -> Callable[[Sandbox, Callable[[bool], None]], None]:
        """What a task's InstancePool prepares its sandboxes with: on the executor, within the task's limits."""

        def prepare_one(sandbox: Sandbox, prepared: Callable[[bool], None]) -> None:
            def ended(fiber: Fiber, outcome: Outcome, _usage: Usage) -> None:
                with self._lock:
                    self._preparing.discard(fiber)
                if outcome.status is not ExecutionStatus.COMPLETED:
                    log.warning(
                        "sandbox not prepared",
                        task_id=task.id,
                        error_code=outcome.error_code,
                        error=outcome.error_message,
                    )
                prepared(outcome.status is ExecutionStatus.COMPLETED)

            fiber = Fiber(
                sandbox,
                _preparation_run(sandbox, prepare),
                deadline=time.monotonic() + task.limits.max_wall_time_ms / 1000,
                cpu_limit_ms=task.limits.max_cpu_time_ms,
                on_end=ended,
                share=task.share,
            )
            with self._lock:
                begins = not self._draining
                if begins:
                    self._preparing.add(fiber)
            if begins:
                self._executor.start(fiber)
            else:
                # Nothing would end it: the last look for what is being prepared may have been.
                self._executor.defer(lambda: prepared(False))

        return prepare_one

    # Tasks' ends, records and figures

    def retire(self, task: Task, *, force: bool, forget_records: bool) -> int:
        """Accept nothing more for a task that is being deleted; returns how many records were forgotten.

        Raises:
            TaskBusy: it has executions and `force` is not set.
        """
        with self._lock:
            if task.active and not force:
                raise TaskBusy(
                    f"task {shown(task.name)} has {len(task.active)} executions waiting or running; "
                    "wait for them, or force",
                    active=len(task.active),
                )
            task.deleted = True
            active = list(task.active.values())
            forgotten = self._records.forget_task(task.id) if forget_records else 0
        for execution in active:
            self.cancel(execution, "the task was deleted")
        return forgotten

    def records_of(self, task: Task, limit: int) -> tuple[list[Execution], list[ExecutionRecord]]:
        """A task's executions that wait or run, and the newest that ended: `limit` together."""
        with self._lock:
            active = list(task.active.values())[-limit:] if limit else []
            return active, self._records.newest_of(task.id, limit - len(active))

    def find(self, execution_id: str) -> Execution | ExecutionRecord | None:
        """An execution that waits or runs, or what is remembered of one that ended."""
        with self._lock:
            return self._active.get(execution_id) or self._records.get(execution_id)

    def page(self, wanted: Wanted, limit: int) -> list[Execution | ExecutionRecord]:
        """All that wait or run and are wanted, and the first so many of those that ended, in no order."""
        with self._lock:
            active = list(self._active.values())
            records = self._records.page(wanted, limit)
        return [*filter(wanted.fits, active), *records]

    def count_lost(self, record: ExecutionRecord, task: Task | None) -> None:
        """Count an execution that an earlier run of the server accepted, and that cannot be had an outcome of."""
        with self._lock:
            self._counters.count_lost(record.function, record.completed_at)
            if task is not None:
                task.count_end(record.status, record.completed_at)

    def stats(self, hours: int = 0) -> ManagerStats:
        """Counts now, and the tally of the last so many hours (0: since the start)."""
        with self._lock:
            return ManagerStats(
                running=self._running,
                pending=len(self._scheduler) + len(self._pausing),
                active_tasks=len({execution.task.id for execution in self._active.values()}),
                sandboxes=self._capacity.taken,
                tally=self._counters.since(hours, time.time()),
            )

    @property
    def line_fullness(self) -> float:
        """How much of the line is taken, 0.0 to 1.0."""
        return len(self._scheduler) / self._config.max_pending

    # Shutting down

    def stop_accepting(self) -> None:
        """Refuse calls from now on, and let none begin again: what failed has failed, or the next run takes it up."""
        with self._lock:
            self._draining = True
            failed = [each for each in self._pausing if not each.is_durable]
        for execution in failed:
            assert execution.failed is not None
            self._end_waiting(execution, execution.failed)

    def drain(self, grace_seconds: float) -> None:
        """Accept nothing more; wait for executions, at most so long, then end those that are left."""
        self.stop_accepting()
        if not self._wait_until_idle(grace_seconds):
            self.end_all()
            self._wait_until_idle(None)
        with self._lock:
            preparing = list(self._preparing)
        for fiber in preparing:
            self._executor.kill(fiber, GuestFault(ErrorCode.CANCELLED, "the server is shutting down"))

    def end_all(self) -> None:
        """End every execution, now that nothing is accepted; the next run takes up those that may begin again."""
        with self._lock:
            left = list(self._active.values())
        for execution in left:
            begins_again = execution.is_durable and execution.retry.allows_another(execution.attempts)
            code = ErrorCode.WORKER_LOST if begins_again else ErrorCode.CANCELLED
            self.kill(execution, GuestFault(code, "the server is shutting down"))

    def _wait_until_idle(self, timeout: float | None) -> bool:
        with self._all_ended:
            return self._all_ended.wait_for(lambda: not self._running and not len(self._scheduler), timeout)


def _guest_run(
    execution: Execution, sandbox: Sandbox, linkage: Linkage
) -> Generator[None, None, tuple[TypedValue, ...]]:
    if not sandbox.prepared:
        yield from linkage.prepare(sandbox)
        sandbox.prepared = True
    # Only now: a sandbox that was prepared ahead had nobody either who could have read along.
    sandbox.reader = execution.stream
    return (yield from execution.function.binding.steps(sandbox, execution.arguments, execution.limits))


def _preparation_run(
    sandbox: Sandbox, prepare: Callable[[Sandbox], Generator[None, None, None]]
) -> Generator[None, None, tuple[TypedValue, ...]]:
    yield from prepare(sandbox)
    return ()


def _log_failed_attempt(execution: Execution, outcome: Outcome) -> None:
    log.warning(
        "attempt failed, another one follows",
        task_id=execution.task.id,
        execution_id=execution.id,
        attempts=execution.attempts,
        error_code=outcome.error_code,
        error=outcome.error_message,
    )


def _log_end(execution: Execution, outcome: Outcome, usage: Usage) -> None:
    log.info(
        "execution ended",
        task_id=execution.task.id,
        execution_id=execution.id,
        status=outcome.status.value,
        error_code=outcome.error_code.value if outcome.error_code is not None else None,
        queue_ms=round(execution.queue_seconds * 1e3, 3),
        run_ms=round(execution.run_seconds * 1e3, 3),
        cpu_ms=round(usage.cpu_ns / 1e6, 3),
    )
