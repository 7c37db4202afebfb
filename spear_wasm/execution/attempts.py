"""One attempt at an execution: a sandbox is had, the guest runs in it, and what that came to is told."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeAlias

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.execution.executor import ON_THE_SPOT_NS
from spear_wasm.execution.fiber import Fiber
from spear_wasm.execution.preparations import prepared
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome, TypedValue, Usage
from spear_wasm.pool import Pool, Use

if TYPE_CHECKING:
    import threading

    from spear_wasm.engine.guest_sandbox import GuestSandbox
    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.executor import Executor
    from spear_wasm.execution.task import Linkage

Over: TypeAlias = "Callable[[Execution, Outcome, Usage], None]"


class Attempts:
    """Runs executions that have begun and hold their room.

    Each comes to `conclude`, or to `end` where another attempt could do no better; then, when nothing of its sandbox
    is left, to `release`. `lock` is the manager's, which guards executions.
    """

    def __init__(
        self,
        executor: Executor,
        lock: threading.Lock,
        new_id: Callable[[str], str],
        *,
        conclude: Over,
        end: Over,
        release: Callable[[Execution], None],
    ) -> None:
        self._executor = executor
        self._lock = lock
        self._new_id = new_id
        self._conclude = conclude
        self._end = end
        self._release = release

    def make(self, execution: Execution, *, on_the_spot: bool) -> None:
        """Make an attempt, once whoever wants to hear of it first has."""
        if execution.on_begin is not None:
            execution.on_begin()
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
        sandbox.name = execution.sandbox_id = sandbox.name or self._new_id("sandbox")

        def ended(fiber: Fiber, outcome: Outcome, usage: Usage) -> None:
            self._on_guest_ended(execution, pool, fiber, outcome, usage)

        fiber = Fiber(
            sandbox,
            _guest_run(execution, sandbox, linkage),
            deadline=execution.deadline,
            cpu_limit_ms=execution.limits.max_cpu_time_ms,
            on_end=ended,
            share=task.share,
            is_brief=execution.function.is_quick,
        )
        with self._lock:
            execution.fiber = fiber
            fiber.kill_fault = execution.kill_fault
        self._executor.start(fiber, on_the_spot=on_the_spot)
        if on_the_spot and fiber.cpu_ns >= ON_THE_SPOT_NS:
            # Others like it must not hold up this thread before it has ended.
            execution.function.ran(quick=False)

    def _over_without_guest(self, execution: Execution, fault: GuestFault, over: Over) -> None:
        try:
            over(execution, (execution.kill_fault or fault).outcome(), Usage())
        finally:
            self._release(execution)

    def _on_guest_ended(
        self, execution: Execution, pool: Pool, fiber: Fiber, outcome: Outcome, usage: Usage
    ) -> None:
        slow_to_close = fiber.sandbox.slow_to_close
        execution.function.ran(quick=fiber.cpu_ns < ON_THE_SPOT_NS and not slow_to_close)
        # What exited, be it with status 0, was unwound, and cannot be called again.
        ended_well = outcome.status is ExecutionStatus.COMPLETED and outcome.exit_code is None
        use = Use(execution.run_seconds - execution.ran, usage.cpu_ns) if ended_well else None
        # Before anybody hears of the end, so that a caller's next call finds what this one left.
        kept = pool.give_back(fiber.sandbox, use)
        if slow_to_close and not kept:
            # It takes a while: the answer does not wait for it, nor do others' deadlines.
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

    def _close(self, execution: Execution, sandbox: GuestSandbox) -> None:
        sandbox.close()
        self._release(execution)


def _guest_run(
    execution: Execution, sandbox: GuestSandbox, linkage: Linkage
) -> Generator[None, None, tuple[TypedValue, ...]]:
    sandbox.watcher = execution
    if not sandbox.prepared:
        yield from prepared(sandbox, linkage.prepare)
        sandbox.prepared = True
    # Only now: a sandbox that was prepared ahead had nobody either who could have read along.
    sandbox.reader = execution.stream
    return (yield from execution.function.binding.steps(sandbox, execution.arguments))
