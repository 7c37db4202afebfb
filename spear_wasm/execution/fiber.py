"""A guest's run in a sandbox, from its first slice to its outcome. Owned by one thread at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from enum import Enum, auto

import structlog

from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.outcome import GuestFault, failure
from spear_wasm.engine.ticker import Pace
from spear_wasm.engine.wait import Wait
from spear_wasm.execution.share import Share
from spear_wasm.execution.timers import Timer
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome, TypedValue, Usage

log = structlog.get_logger()

Run = Generator[None, None, "tuple[TypedValue, ...]"]
Ended = Callable[["Fiber", Outcome, Usage], None]


BRIEF_CPU_NS = 500_000
"""CPU time of a run that may be taken for none: less than a slice."""


class FiberState(Enum):
    """Who may touch a fiber: the executor's lock guards the moves."""

    NEW = auto()
    RUNNABLE = auto()
    WAITING = auto()
    POLLED = auto()
    ENDED = auto()


class Fiber:
    """The steps of a guest in its sandbox, with a CPU budget and a deadline.

    `deadline` is a time.monotonic() value; `cpu_limit_ms` of 0 is no limit. `on_end` is called once, by the
    thread that ended the fiber, before the sandbox is closed by `close`. `share` is its task's; without one it is
    weighed for itself. After a slice `waits_for` is what must be over before the next one makes sense, if anything.
    `timer` ends it at its deadline, `alarm` what it waits for where that has a time. `is_brief` says that its next
    slice may be expected to take no time: as the caller knows of others like it, or since it has taken none so far.
    """

    __slots__ = (
        "_cpu_limit_ns", "_on_end", "_run", "_ticker", "alarm", "cpu_ns", "deadline", "is_brief", "kill_fault",
        "sandbox", "share", "state", "timer", "virtual_time", "waits_for",
    )  # fmt: skip

    def __init__(
        self,
        sandbox: GuestSandbox,
        run: Run,
        *,
        deadline: float,
        cpu_limit_ms: int,
        on_end: Ended,
        share: Share | None = None,
        is_brief: bool = False,
    ) -> None:
        self.sandbox = sandbox
        self.share = share or Share()
        self.deadline = deadline
        self.state = FiberState.NEW
        self.cpu_ns = 0
        self.is_brief = is_brief
        self.virtual_time = 0
        self.kill_fault: GuestFault | None = None
        self.timer: Timer | None = None
        self.alarm: Timer | None = None
        self.waits_for: Wait | None = None
        self._run = run
        self._ticker = sandbox.linked.engine.ticker
        self._cpu_limit_ns = cpu_limit_ms * 1_000_000
        self._on_end = on_end

    def run_slice(self, pace: Pace) -> Outcome | None:
        """Run the guest for one slice on this thread; its outcome if that was the last one."""
        if 0 < self._cpu_limit_ns < self.cpu_ns + self._ticker.slow_period * 1e9:
            pace = Pace.FULL  # its end is near
        self._ticker.begin_slice(pace)
        start = time.thread_time_ns()
        try:
            next(self._run)
        except StopIteration as stop:
            outcome: Outcome | None = Outcome(ExecutionStatus.COMPLETED, stop.value)
        except GuestFault as fault:
            outcome = self._outcome_of(fault)
        except Exception as error:  # noqa: BLE001  a bug in a host function must end this guest, not this thread
            outcome = failure(ErrorCode.INSTANCE_FAILED, f"the host failed: {type(error).__name__}: {error}")
        else:
            outcome = None
        used = time.thread_time_ns() - start
        self._ticker.end_slice()
        self.cpu_ns += used
        self.waits_for = self.sandbox.waits_for if outcome is None else None
        self.is_brief = self.waits_for is not None and self.cpu_ns < BRIEF_CPU_NS
        if outcome is None and self.waits_for is None:
            self._ticker.slice_was_cut(pace, used / 1e9)
        if outcome is None and self.kill_fault is None and 0 < self._cpu_limit_ns <= self.cpu_ns:
            self.kill_fault = GuestFault(
                ErrorCode.CPU_TIME_EXCEEDED, f"the guest used its {self._cpu_limit_ns / 1e6:g} ms of CPU time"
            )
        return outcome

    def hurry(self) -> None:
        """Somebody waits for the end of its present slice."""
        self._ticker.hurry()

    def log_from(self, start: int) -> bytes:
        """What its guest has logged so far, behind that many bytes; nothing once it has ended. On any thread."""
        logged = self.sandbox.log_from(start)
        # Asked last: the sandbox of a guest that has ended may serve another execution, and hold its log.
        return b"" if self.state is FiberState.ENDED else logged

    def charge(self, used_ns: int) -> None:
        """Count time against it and its task. The executor's lock guards this."""
        self.virtual_time += used_ns
        self.share.virtual_time += used_ns

    def kill(self, fault: GuestFault) -> Outcome:
        """Unwind the guest, on whatever thread owns the fiber; the outcome to end it with."""
        try:
            self._run.close()
        except Exception:
            # A bug in a runtime's clean-up: the guest is unwound all the same, and its end must be reported.
            log.exception("guest's clean-up failed")
        return self._outcome_of(fault)

    def _outcome_of(self, fault: GuestFault) -> Outcome:
        doing = self.sandbox.doing
        return (fault.during(doing) if doing else fault).outcome()

    def end(self, outcome: Outcome) -> None:
        """Report the outcome and what the guest used."""
        self._on_end(self, outcome, self.sandbox.usage(self.cpu_ns))
