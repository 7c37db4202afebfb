"""TaskExecutionManager: owns executions from an accepted call to its outcome, on one path for all of them."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from spear_wasm.engine.outcome import GuestFault, failure
from spear_wasm.errors import ServerDraining, TaskBusy, TaskNotFound
from spear_wasm.execution.admission import Admission
from spear_wasm.execution.attempts import Attempts
from spear_wasm.execution.counters import Tally
from spear_wasm.execution.execution import Call, Execution, execution_of
from spear_wasm.execution.preparations import Preparations
from spear_wasm.execution.retry import Backoff
from spear_wasm.locks.turns import LOOK_AGAIN_SECONDS
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome, Usage
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.config import TaskExecutionManagerConfig
    from spear_wasm.execution.execution_registry import ExecutionRegistry
    from spear_wasm.execution.executor import Executor
    from spear_wasm.execution.task import Task
    from spear_wasm.scheduling import Room

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ManagerStats:
    """What the manager counts, at one moment."""

    running: int
    pending: int
    active_tasks: list[str]
    tally: Tally


class TaskExecutionManager:
    """Accepts calls, orders them, has them run in sandboxes and sets their outcomes.

    `submit` returns an Execution that completes; whoever waits for it needs to know nothing of how. Callers
    may use any thread. A call is admitted, and begins at once or waits for its turn (Admission); attempts are made
    at it (Attempts) until one of them is its last; then it ends, and is remembered (ExecutionRegistry).
    """

    def __init__(
        self,
        config: TaskExecutionManagerConfig,
        room: Room,
        executor: Executor,
        executions: ExecutionRegistry,
    ) -> None:
        self._backoff = Backoff(config.first_backoff, config.longest_backoff)
        self._executor = executor
        self._executions = executions
        self.preparations = Preparations(executor)
        self._lock = threading.Lock()
        # guards: all below, executions until they are done, and what tasks hold
        self._admission = Admission(config, room, self._look_again, executions.average_run_seconds)
        self._looks_again = False
        self._draining = False
        self._all_ended = threading.Condition(self._lock)
        self._attempts = Attempts(
            executor,
            self._lock,
            executions.new_id,
            conclude=self._conclude,
            end=self._end,
            release=self._release,
        )

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
        return self.accept(execution_of(call), self._suggested_id(call), on_the_spot=on_the_spot)

    def accept(self, execution: Execution, suggested_id: str = "", *, on_the_spot: bool = False) -> Execution:
        """The same for an execution that somebody else has made of a call.

        A suggested id is one that nothing kept has: see `ExecutionRegistry.unless_kept`.

        Raises:
            ExecutionExists, ServerBusy, ServerDraining, TaskNotFound: as `submit` does.
        """
        with self._lock:
            self._admit(execution, suggested_id)
            begins = self._admission.begins_at_once(execution)
            if begins:
                self._begin(execution)
            else:
                self._wait_for_turn(execution)
        if begins:
            self._attempts.make(execution, on_the_spot=on_the_spot and execution.function.is_quick)
        else:
            self._begin_waiting()
        return execution

    def hold(self, call: Call) -> Execution:
        """Accept a call as `submit` does, but let it wait beside the line until it is released.

        Nothing ends it before: one that is killed meanwhile ends when it is released, if it is not withdrawn.
        """
        execution, suggested_id = execution_of(call), self._suggested_id(call)
        with self._lock:
            self._admit(execution, suggested_id)
            self._admission.hold(execution)
        return execution

    def release(self, execution: Execution, pause: float = 0.0) -> None:
        """Let an execution that is held into the line, after so many seconds; nothing happens to one that is not."""
        with self._lock:
            if not self._admission.release(execution):
                return
            killed_by = execution.kill_fault
            if killed_by is None:
                if pause:
                    self._pause(execution, pause)
                else:
                    self._wait_for_turn(execution)
        if killed_by is not None:
            self._end(execution, killed_by.outcome(), Usage())
        else:
            self._begin_waiting()

    def withdraw(self, execution: Execution) -> bool:
        """Take back an execution that has not begun, as if it had not been accepted; whether that was so."""
        with self._lock:
            waited = self._admission.release(execution) or self._leave(execution)
            if waited:
                self._executions.drop(execution)
        if waited:
            self._cancel_timer(execution)
            execution.set_done()
            self._begin_waiting()
        return waited

    def check_open(self) -> None:
        """Whether a call might be accepted now: for those who prepare something for one.

        Raises:
            ServerBusy, ServerDraining: as `submit` would.
        """
        with self._lock:
            self._refuse_if_draining()
            self._admission.refuse_if_full(None)

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise ServerDraining("the server is shutting down and accepts no calls")

    def _suggested_id(self, call: Call) -> str:
        return "" if call.execution_id else self._executions.unless_kept(call.suggested_id)

    def _admit(self, execution: Execution, suggested_id: str) -> None:
        task = execution.task
        self._refuse_if_draining()
        if task.deleted:
            raise TaskNotFound(f"task {shown(task.name)} was deleted")
        self._executions.check_free(execution.id)
        # What an earlier run of the server has accepted is not refused by this one.
        if not execution.sequence:
            self._admission.refuse_if_full(task)
        self._executions.enter(execution, suggested_id)

    # Waiting and beginning

    def _wait_for_turn(self, execution: Execution) -> None:
        self._admission.join_line(execution)
        execution.timer = self._executor.at(execution.deadline, lambda: self._expire(execution))

    def _leave(self, execution: Execution) -> bool:
        """Take an execution from wherever it waits; whether it did."""
        waited = self._admission.leave(execution)
        if waited and not self._admission.in_line:
            self._all_ended.notify_all()
        return waited

    def _cancel_timer(self, execution: Execution) -> None:
        if execution.timer is not None:
            self._executor.cancel_timer(execution.timer)

    def _begin(self, execution: Execution) -> None:
        execution.lifecycle.move(ExecutionStatus.RUNNING)
        execution.attempts += 1
        execution.started = time.monotonic()
        if execution.started_at is None:
            execution.started_at = time.time()

    def _begin_waiting(self) -> None:
        """Begin those that wait for which there is room."""
        while True:
            with self._lock:
                execution = self._admission.next()
                if execution is None:
                    return
                self._begin(execution)
            self._cancel_timer(execution)
            self._attempts.make(execution, on_the_spot=False)

    def _look_again(self) -> None:
        """Nobody tells us of what other workers give back. The lock is held."""
        if self._executions.seat.board.is_shared and not self._looks_again:
            self._looks_again = True
            self._executor.at(time.monotonic() + LOOK_AGAIN_SECONDS, self._look)

    def _look(self) -> None:
        with self._lock:
            self._looks_again = False
            self._executions.seat.stop_waiting()  # who still does says so again
        self._begin_waiting()

    def settle(self) -> None:
        """Let other workers that wait have the room that nobody uses here. To be called now and then."""
        with self._lock:
            self._admission.settle()

    def _release(self, execution: Execution) -> None:
        """Give up the room of an execution that began, and let others have it."""
        with self._lock:
            self._admission.give_back_room(execution)
            waiting = self._admission.in_line
            if not self._admission.running:
                self._all_ended.notify_all()
        if waiting:
            self._begin_waiting()

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
            goes_on = pause is not None and (execution.may_move_on or not self._draining)
            is_left = goes_on and self._draining
            if goes_on:
                self._put_aside(execution, outcome, usage)
            if is_left:
                self._executions.drop(execution)
            elif pause is not None and goes_on:
                self._pause(execution, pause)
        if is_left:
            execution.set_done()
        elif not goes_on:
            self._end(execution, outcome, usage)
        else:
            _log_failed_attempt(execution, outcome)

    def pause_after_loss(self, call: Call, lost: Outcome) -> float | None:
        """Seconds before a call begins again whose attempt an earlier run of the server has lost.

        None where it does not, and `lost` is its outcome.

        Raises:
            InvalidRequest, FunctionNotFound: the call does not fit the task.
        """
        return self._pause_after(execution_of(call), lost)

    def _pause_after(self, execution: Execution, outcome: Outcome) -> float | None:
        # The next run of the server will grant the whole of its time again.
        since = execution.accepted if self._draining else time.monotonic()
        seconds_left = execution.deadline - since
        return execution.pause_after(outcome, seconds_left, self._backoff, random.random())  # noqa: S311  no secret

    def _put_aside(self, execution: Execution, outcome: Outcome, usage: Usage) -> None:
        """An attempt has ended with this outcome, and another one is to be made."""
        execution.lifecycle.move(ExecutionStatus.PENDING)
        execution.ran, execution.started = execution.run_seconds, None
        execution.add_usage(usage)
        execution.failed = outcome
        execution.fiber = None

    def _pause(self, execution: Execution, seconds: float) -> None:
        """Let an execution wait, without room of its own, until it joins the line again."""
        self._admission.pause(execution)
        execution.timer = self._executor.at(time.monotonic() + seconds, lambda: self._end_pause(execution))

    def _end_pause(self, execution: Execution) -> None:
        with self._lock:
            if not self._admission.end_pause(execution):
                return
            self._wait_for_turn(execution)
        self._begin_waiting()

    # Ending

    def _end(self, execution: Execution, outcome: Outcome, usage: Usage) -> None:
        """Set the one outcome of an execution, and tell whoever waits for it."""
        with self._lock:
            execution.lifecycle.move(outcome.status)
            execution.ended, execution.completed_at = time.monotonic(), time.time()
            execution.add_usage(usage)
            execution.outcome = outcome
            # What they hold may be large, and the execution may be kept for a while.
            execution.fiber = execution.arguments = execution.on_begin = None
            self._executions.end(execution)
        execution.set_done()
        if not (execution.in_batch and outcome.status is ExecutionStatus.COMPLETED):
            _log_end(execution, outcome, execution.usage)

    def _expire(self, execution: Execution) -> None:
        """The budget of a waiting execution is used up."""
        self._end_waiting(
            execution,
            failure(ErrorCode.TIMEOUT, "the execution's time budget ended while it waited in the line"),
        )

    def _end_waiting(self, execution: Execution, outcome: Outcome) -> bool:
        with self._lock:
            waited = self._leave(execution)
        if waited:
            self._cancel_timer(execution)
            self._end(execution, outcome, Usage())
            # It may have been what held up the line.
            self._begin_waiting()
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
            forgotten = self._executions.forget_records(task) if forget_records else 0
        for execution in active:
            self.cancel(execution, "the task was deleted")
        return forgotten

    def reinstate(self, task: Task) -> None:
        """A task that was retired is not deleted after all."""
        with self._lock:
            task.deleted = False

    # Figures

    def stats(self, hours: int = 0) -> ManagerStats:
        """Counts now, and the tally of the last so many hours (0: since the start)."""
        with self._lock:
            running, pending = self._admission.running, self._admission.pending
        executions = self._executions
        return ManagerStats(running, pending, executions.active_tasks(), executions.tally(hours))

    @property
    def is_draining(self) -> bool:
        """Whether nothing is accepted any more."""
        return self._draining

    @property
    def line_fullness(self) -> float:
        """How much of the line is taken, 0.0 to 1.0."""
        return self._admission.fullness

    # Shutting down

    def stop_accepting(self) -> None:
        """Refuse calls from now on, and let none begin again: what failed has failed, or the next run takes it up."""
        self.preparations.refuse()
        with self._lock:
            self._draining = True
            failed = [each for each in self._admission.in_pauses() if not each.may_move_on]
        for execution in failed:
            assert execution.failed is not None
            self._end_waiting(execution, execution.failed)

    def finish(self, grace_seconds: float) -> None:
        """Accept nothing more, and wait for what waits and runs, at most so long."""
        self.stop_accepting()
        self._wait_until_idle(grace_seconds)

    def drain(self, grace_seconds: float) -> None:
        """Accept nothing more; wait for executions, at most so long, then end those that are left."""
        self.stop_accepting()
        if not self._wait_until_idle(grace_seconds):
            self.end_all()
            self._wait_until_idle(None)
        self.preparations.end()

    def end_all(self) -> None:
        """End every execution, now that nothing is accepted; the next run takes up those that may begin again."""
        # The end of one that runs would let those begin that wait.
        waiting_first = sorted(
            self._executions.active(), key=lambda each: each.status is ExecutionStatus.RUNNING
        )
        for execution in waiting_first:
            begins_again = execution.may_move_on and execution.retry.allows_another(execution.attempts)
            code = ErrorCode.WORKER_LOST if begins_again else ErrorCode.CANCELLED
            self.kill(execution, GuestFault(code, "the server is shutting down"))

    def _wait_until_idle(self, timeout: float | None) -> bool:
        with self._all_ended:
            return self._all_ended.wait_for(lambda: self._admission.is_idle, timeout)


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
