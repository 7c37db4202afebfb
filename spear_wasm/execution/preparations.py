"""Sandboxes that are prepared ahead of the calls that they will serve, on the executor's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeAlias

import structlog

from spear_wasm.engine.outcome import GuestExit, GuestFault
from spear_wasm.execution.fiber import Fiber
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome, TypedValue, Usage

if TYPE_CHECKING:
    from spear_wasm.engine.guest_sandbox import GuestSandbox, Steps
    from spear_wasm.execution.executor import Executor
    from spear_wasm.execution.task import Task

log = structlog.get_logger()

PrepareOne: TypeAlias = "Callable[[GuestSandbox, Callable[[bool], None]], None]"


class Preparations:
    """Runs what sandboxes run before their first call, within their tasks' limits. Thread-safe."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()  # guards: all below
        self._under_way: set[Fiber] = set()
        self._refusing = False

    def __len__(self) -> int:
        return len(self._under_way)

    def of(self, task: Task, prepare: Callable[[GuestSandbox], Steps]) -> PrepareOne:
        """What a task's InstancePool prepares its sandboxes with."""

        def prepare_one(sandbox: GuestSandbox, tell: Callable[[bool], None]) -> None:
            def ended(fiber: Fiber, outcome: Outcome, _usage: Usage) -> None:
                with self._lock:
                    self._under_way.discard(fiber)
                if outcome.status is not ExecutionStatus.COMPLETED:
                    log.warning(
                        "sandbox not prepared",
                        task_id=task.id,
                        error_code=outcome.error_code,
                        error=outcome.error_message,
                    )
                tell(outcome.status is ExecutionStatus.COMPLETED)

            fiber = Fiber(
                sandbox,
                _preparation_run(sandbox, prepare),
                deadline=time.monotonic() + task.limits.max_wall_time_ms / 1000,
                cpu_limit_ms=task.limits.max_cpu_time_ms,
                on_end=ended,
                share=task.share,
            )
            if self._takes(fiber):
                self._executor.start(fiber)
            else:
                # Nothing would end it: the last look for what is being prepared may have been.
                self._executor.defer(lambda: tell(False))

        return prepare_one

    def _takes(self, fiber: Fiber) -> bool:
        with self._lock:
            if not self._refusing:
                self._under_way.add(fiber)
            return not self._refusing

    def refuse(self) -> None:
        """Begin none from now on."""
        with self._lock:
            self._refusing = True

    def end(self) -> None:
        """End those that are under way, now that none begins."""
        with self._lock:
            under_way = list(self._under_way)
        for fiber in under_way:
            self._executor.kill(fiber, GuestFault(ErrorCode.CANCELLED, "the server is shutting down"))


def _preparation_run(
    sandbox: GuestSandbox, prepare: Callable[[GuestSandbox], Steps]
) -> Generator[None, None, tuple[TypedValue, ...]]:
    yield from prepared(sandbox, prepare)
    return ()


def prepared(sandbox: GuestSandbox, prepare: Callable[[GuestSandbox], Steps]) -> Steps:
    """The steps that make a sandbox ready for its first call; a guest that exits in them has failed."""
    try:
        yield from prepare(sandbox)
    except GuestExit as exited:
        raise exited.too_early() from None
