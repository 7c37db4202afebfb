"""Fibers whose guests are Python generators, and whose CPU time is what the test says it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from spear_wasm.engine.ticker import Pace
from spear_wasm.engine.wait import Wait
from spear_wasm.execution.fiber import Fiber, Run
from spear_wasm.model import Outcome, TypedValue, Usage, ValueType

if TYPE_CHECKING:
    from spear_wasm.engine.sandbox import Sandbox
    from spear_wasm.execution.executor import Executor

PATIENCE = 10.0
"""Seconds after which something that does not happen has failed; nothing waits for it to pass."""
A_LONG_TIME = 3600.0
MS = 1_000_000
SLOW_PERIOD_MS = 5


class FakeClock:
    """CPU time by thread, in nanoseconds: it passes when a guest says so."""

    def __init__(self) -> None:
        self._times = threading.local()

    def thread_time_ns(self) -> int:
        return getattr(self._times, "now", 0)

    def use(self, nanoseconds: int) -> None:
        self._times.now = self.thread_time_ns() + nanoseconds


class FakeFiber(Fiber):
    """A fiber that remembers how it ended, and how often."""

    def __init__(
        self,
        run: Run,
        *,
        deadline: float | None = None,
        cpu_limit_ms: int = 0,
        is_brief: bool = False,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self.paces: list[Pace] = []
        self.hurried = threading.Event()
        ticker = SimpleNamespace(
            begin_slice=self.paces.append,
            end_slice=lambda: None,
            hurry=self.hurried.set,
            slice_was_cut=lambda _pace, _seconds: None,
            slow_period=SLOW_PERIOD_MS / 1000,
        )
        sandbox = SimpleNamespace(
            doing="",
            linked=SimpleNamespace(engine=SimpleNamespace(ticker=ticker)),
            usage=lambda cpu_ns: Usage(cpu_ns=cpu_ns),
            waits_for=None,
        )
        self.fake_sandbox = sandbox
        super().__init__(
            cast("Sandbox", sandbox),
            run,
            deadline=time.monotonic() + A_LONG_TIME if deadline is None else deadline,
            cpu_limit_ms=cpu_limit_ms,
            on_end=self._ended,
            is_brief=is_brief,
        )
        self._over = threading.Event()
        self._then = then
        self.outcomes: list[Outcome] = []
        self.usage = Usage()
        self.ended_on = ""

    def wait_for(self, wait: Wait | None) -> None:
        """Let the guest wait in a host call after its present slice."""
        self.fake_sandbox.waits_for = wait

    def _ended(self, _: Fiber, outcome: Outcome, usage: Usage) -> None:
        self.outcomes.append(outcome)
        self.usage = usage
        self.ended_on = threading.current_thread().name
        try:
            self._then()
        finally:
            self._over.set()

    def has_ended(self) -> bool:
        return self._over.is_set()

    def outcome(self) -> Outcome:
        """How it ended; waits for that."""
        assert self._over.wait(PATIENCE), "the fiber did not end"
        (outcome,) = self.outcomes
        return outcome


class Guest:
    """A guest of a number of slices, each of which uses some CPU time."""

    def __init__(self, slices: int = 1, *, use: Callable[[], object] = lambda: None) -> None:
        self.polled = 0
        self.polled_on: list[str] = []
        self.unwound = False
        self._slices = slices
        self._use = use

    def run(self) -> Run:
        try:
            for number in range(self._slices):
                self.polled += 1
                self.polled_on.append(threading.current_thread().name)
                self._use()
                if number < self._slices - 1:
                    yield
        finally:
            self.unwound = True
        return (TypedValue(ValueType.I32, self.polled),)


class Gate:
    """Where a guest stops in the middle of a slice until the test lets it go on."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


@contextmanager
def held(executor: Executor, threads: int = 1) -> Iterator[None]:
    """Keep the executor's threads busy meanwhile, so that what is started has to wait."""
    gates = [Gate() for _ in range(threads)]
    for gate in gates:
        executor.start(FakeFiber(Guest(use=gate).run()))
    for gate in gates:
        gate.wait_until_reached()
    try:
        yield
    finally:
        for gate in gates:
            gate.open()
