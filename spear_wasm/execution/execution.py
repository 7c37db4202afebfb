"""One execution: a call that was accepted, and the way to wait for its end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from spear_wasm.execution.retry import Backoff, RetryPolicy
from spear_wasm.execution.state import FINAL, Lifecycle
from spear_wasm.limits import UNSAID, Limits, ResourceLimits
from spear_wasm.model import WASM_PAGE_BYTES, ExecutionMode, ExecutionStatus, Outcome, Parameter, Usage
from spear_wasm.scheduling import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from spear_wasm.engine.outcome import GuestFault
    from spear_wasm.execution.fiber import Fiber
    from spear_wasm.execution.stream import MessageStream
    from spear_wasm.execution.task import Task, TaskFunction
    from spear_wasm.execution.timers import Timer

log = structlog.get_logger()

NO_RETRIES: Final = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Earlier:
    """What became of an execution in earlier runs of the server.

    `sequence` is its place in the order of creation, `attempts` how often it was begun, `started_at` when first.
    """

    sequence: int = 0
    attempts: int = 0
    started_at: float | None = None


NOTHING_EARLIER: Final = Earlier()


class Call(msgspec.Struct, frozen=True):
    """What a caller wants done. `budget_ms` of 0 leaves the time to the task's limit.

    `execution_id` is demanded (refused where it is in use); `suggested_id` is taken where it is free. `earlier` is
    what an execution of an earlier run of the server has behind it. Where calls wait, a higher `priority` goes
    first. What the guest emits goes into `stream`; without one, nowhere. `environment` comes on top of the task's.
    `in_batch` says that its end, where it is a good one, is logged with others'.
    """

    task: Task
    function: str
    parameters: Sequence[Parameter] = ()
    limits: ResourceLimits = UNSAID
    budget_ms: float = 0
    execution_id: str = ""
    suggested_id: str = ""
    force_new_instance: bool = False
    priority: int = DEFAULT_PRIORITY
    mode: ExecutionMode = ExecutionMode.SYNC
    max_retries: int = 0
    earlier: Earlier = NOTHING_EARLIER
    stream: MessageStream | None = None
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    in_batch: bool = False


class Execution:
    """An accepted call, from admission to its outcome.

    Written by the manager under its lock until `outcome` is set; nothing changes afterwards. One that is withdrawn
    before it began, or is left to the next run of the server, is done without an outcome. `before_attempt` is called
    whenever its turn has come, with what then makes it run, or fail with a fault; `on_begin` only hears of it. Where
    an attempt fails and another one is to be made, `failed` is the outcome that it would have had. Times ending in
    `_at` are seconds since the epoch; the others are of time.monotonic(). `started` is of the present attempt,
    `started_at` of the first one, `ran` the seconds that earlier ones took. `sequence` orders creation.
    """

    __slots__ = (
        "_budget_seconds", "_callbacks", "_done", "_followers", "_lock", "accepted", "arguments", "attempts",
        "before_attempt", "completed_at", "deadline", "ended", "failed", "fiber", "force_new_instance", "function",
        "id", "in_batch", "kill_fault", "lifecycle", "limits", "memory_reserved", "mode", "on_begin", "outcome",
        "priority", "ran", "retry", "sandbox_id", "sequence", "started", "started_at", "stream", "task", "timer",
        "usage",
    )  # fmt: skip

    def __init__(
        self, execution_id: str, call: Call, function: TaskFunction, arguments: object, limits: Limits
    ) -> None:
        self.id = execution_id
        self.task = call.task
        self.function = function
        self.arguments = arguments
        self.limits = limits
        self.force_new_instance = call.force_new_instance
        self.priority = call.priority
        self.mode = call.mode
        self.in_batch = call.in_batch
        self.sequence = call.earlier.sequence
        self.attempts = call.earlier.attempts
        self.retry = (
            RetryPolicy(call.max_retries, call.task.policy.retry_traps) if call.max_retries else NO_RETRIES
        )
        self.stream = call.stream
        self.before_attempt: Callable[[Callable[[GuestFault | None], None]], None] | None = None
        self.on_begin: Callable[[], None] | None = None
        budget_ms = min(limits.max_wall_time_ms, call.budget_ms or limits.max_wall_time_ms)
        self._budget_seconds = budget_ms / 1000
        self.begin_budget()
        self.lifecycle = Lifecycle()
        self.memory_reserved = 0
        self.sandbox_id = ""
        self.started: float | None = None
        self.started_at: float | None = call.earlier.started_at
        self.ran = 0.0
        self.failed: Outcome | None = None
        self.ended: float | None = None
        self.completed_at: float | None = None
        self.fiber: Fiber | None = None
        self.timer: Timer | None = None
        self.kill_fault: GuestFault | None = None
        self.outcome: Outcome | None = None
        self.usage = Usage()
        self._lock = threading.Lock()  # guards: _callbacks and _followers, and the setting of _done
        self._followers: tuple[Callable[[], None], ...] = ()
        self._callbacks: list[Callable[[Execution], None]] = []
        self._done = False

    def begin_budget(self, latest: float = math.inf) -> None:
        """Its time begins now, for whoever makes executions before they submit them; it is over at `latest`."""
        self.accepted = time.monotonic()
        self.deadline = min(self.accepted + self._budget_seconds, latest)

    @property
    def status(self) -> ExecutionStatus:
        """Where it is in its life."""
        return self.lifecycle.status

    @property
    def standing(self) -> ExecutionStatus:
        """The same for those who are not told of its end yet: one that ends just now was running a moment ago."""
        status = self.lifecycle.status
        return ExecutionStatus.RUNNING if status in FINAL else status

    @property
    def done(self) -> bool:
        """Whether it has ended and its figures are final."""
        return self._done

    @property
    def is_left(self) -> bool:
        """Whether this run of the server is done with it, and the next one takes it up."""
        return self._done and self.outcome is None

    @property
    def queue_seconds(self) -> float:
        """Time since admission in which no attempt was under way: in the line, and in the pauses between them."""
        until = self.started if self.started is not None else self.ended
        return (until if until is not None else time.monotonic()) - self.accepted - self.ran

    @property
    def run_seconds(self) -> float:
        """Time between the first slice and the end, of all attempts together; 0.0 for one that never ran."""
        if self.started is None:
            return self.ran
        return self.ran + (self.ended if self.ended is not None else time.monotonic()) - self.started

    @property
    def is_durable(self) -> bool:
        """Whether it is kept on disk."""
        return self.before_attempt is not None

    @property
    def may_move_on(self) -> bool:
        """Whether the next run of the server can make another attempt, once this one has made some.

        It has the reader of no stream, and cannot know what that one has been told.
        """
        return self.is_durable and self.mode is not ExecutionMode.STREAM

    def pause_after(
        self, outcome: Outcome, seconds_left: float, backoff: Backoff, chance: float
    ) -> float | None:
        """How long to wait before another attempt follows one with this outcome; None where none does.

        What was emitted cannot be taken back: none follows one that has begun to.
        """
        if self.stream is not None and self.stream.begun:
            return None
        return self.retry.pause(outcome, self.attempts, seconds_left, backoff, chance)

    def follow(self, news: Callable[[], None]) -> None:
        """Call back whenever the guest has logged something, on the thread that runs it; must be short."""
        with self._lock:
            self._followers += (news,)

    def unfollow(self, news: Callable[[], None]) -> None:
        """Do not call back any more."""
        with self._lock:
            self._followers = tuple(each for each in self._followers if each is not news)

    def logged(self) -> None:
        """For the sandbox: there is more in the log."""
        for news in self._followers:
            news()

    def log_from(self, start: int) -> bytes:
        """What the present attempt has logged so far, or the last one did, behind that many bytes. On any thread."""
        fiber = self.fiber
        if fiber is not None:
            return fiber.log_from(start)
        # One that has just begun has no fiber yet, and what is known is of the attempt before it.
        return b"" if self.status is ExecutionStatus.RUNNING else self.usage.stderr[start:]

    def add_usage(self, usage: Usage) -> None:
        """Count what an attempt used; what it wrote takes the place of what earlier ones did."""
        self.usage = usage if self.failed is None else usage.after(self.usage)

    def add_done_callback(self, callback: Callable[[Execution], None]) -> None:
        """Call back when it has ended, on whatever thread ends it; now, if it has."""
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def set_done(self) -> None:
        """For the manager: the outcome and all figures are set."""
        with self._lock:
            self._done = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                # Who waits for this one must not keep others from hearing of it, nor its room from being freed.
                log.exception("execution's end not delivered", execution_id=self.id)

    def wait(self) -> Outcome:
        """Block until it has ended."""
        ended = threading.Event()
        self.add_done_callback(lambda _: ended.set())
        ended.wait()
        assert self.outcome is not None
        return self.outcome


class BoundCall:
    """A call whose function and limits have been found and checked, for one execution of it or for many.

    Raises:
        InvalidRequest, FunctionNotFound: the task does not have the function, or not so much to give.
    """

    __slots__ = ("_call", "_function", "_limits", "_memory_need")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._limits = call.task.limits.for_call(call.limits) if call.limits else call.task.limits
        self._function = call.task.function(call.function)
        self._memory_need = _memory_need(call.task, self._limits)

    def execution(self, parameters: Sequence[Parameter]) -> Execution:
        """An execution with these parameters, which nobody has accepted yet.

        Raises:
            InvalidRequest: they do not fit.
        """
        call, limits = self._call, self._limits
        arguments = self._function.binding.arguments(parameters, limits, call.environment)
        execution = Execution(call.execution_id, call, self._function, arguments, limits)
        execution.memory_reserved = self._memory_need
        return execution


def execution_of(call: Call) -> Execution:
    """An execution of a call that fits its task, which nobody has accepted yet.

    Raises:
        InvalidRequest, FunctionNotFound: it does not fit.
    """
    return BoundCall(call).execution(call.parameters)


def _memory_need(task: Task, limits: Limits) -> int:
    """Bytes that a sandbox of the task can grow to within these limits."""
    module = task.module
    assert module is not None
    if not module.has_memory:
        return 0
    most = limits.max_memory_bytes
    return most if module.memory_max_pages is None else min(most, module.memory_max_pages * WASM_PAGE_BYTES)
