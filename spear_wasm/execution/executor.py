"""The threads that run guests which do not finish at once, and the clock that ends those whose time is up."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.ticker import Pace
from spear_wasm.engine.wait import Wait
from spear_wasm.execution.fiber import Fiber, FiberState
from spear_wasm.execution.run_queue import RunQueue
from spear_wasm.execution.timers import Timer, Timers
from spear_wasm.model import ErrorCode, Outcome

log = structlog.get_logger()


MOST_BUSY_SECONDS = 0.01
"""What should take no time and takes longer has other threads see to the rest. Looking costs the busy one 0.1 ms."""
ON_THE_SPOT_NS = 1_000_000
"""CPU time after which a guest leaves the thread that started it for ours, at the end of its slice."""


class Executor:
    """Runs fibers to their end, slice by slice, on a fixed number of threads that take turns among them.

    A fiber's first slice may be run by the thread that starts it (`start(..., on_the_spot=True)`); most
    guests end there. A guest is ended by unwinding it: at its deadline or on `kill`, at once where no thread
    is running it, else after its present slice. A guest that waits in a host call has no turns until what it
    waits for is over. What a guest's end sets off (`Fiber.on_end`) is called without any lock held.

    What is done between slices is Python's, of which one thread at a time can do any. So one does all of it, as long
    as there is any, and guests that are brief with it: the others sleep, who would but take the GIL and our locks from
    it. A guest that may take all of a slice is run beside it; and where what was to take no time does take some, one of
    the others takes over.

    A guest that computes has long slices while nobody waits for its thread. Whoever comes to do so, or wants to end it,
    makes it hurry.
    """

    def __init__(self, threads: int) -> None:
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        # guards: the run queue, the timers, every fiber's state and share, and all below
        self._busy: int | None = None
        """The thread that does what should take no time; it looks for more when it has done its one."""
        self._busy_turns = 0
        """How often a thread has begun to."""
        self._is_minded = False
        """Whether a thread looks after the busy one."""
        self._watched_until: float | None = None
        """When a thread wakes up that watches the timers; None where none does that."""
        self._computing: set[Fiber] = set()
        """Guests that run and may take all of their slice."""
        self._closing = False
        self._queue = RunQueue()
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="spear-chores")
        self._timers = Timers()
        self._threads = [
            threading.Thread(target=self._run_turns, name=f"spear-executor-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, fiber: Fiber, *, on_the_spot: bool = False) -> None:
        """Run a new fiber. With `on_the_spot` the calling thread runs its first slice.

        The calling thread must not be one where KeyboardInterrupt may be raised: it would land in a host
        call, on the guest's stack.
        """
        if on_the_spot:
            fiber.state = FiberState.POLLED
            outcome = fiber.run_slice(Pace.SLOW)
            # The tick that cuts a slice comes at any time after the guest began: whole slices are measured.
            while outcome is None and _goes_on(fiber):
                outcome = fiber.run_slice(Pace.SLOW)
            if outcome is not None:
                with self._lock:
                    fiber.state = FiberState.ENDED
                self._finish(fiber, outcome)
                return
        self._put_back(fiber)

    def kill(self, fiber: Fiber, fault: GuestFault) -> None:
        """End a fiber with a fault, unless it has ended. Returns without waiting for a running slice.

        One that has yet to be started ends when it is.
        """
        with self._lock:
            mine = self._take_for_killing(fiber, fault)
            is_computing = fiber in self._computing
        if mine:
            self._finish(fiber, fiber.kill(fault))
        elif is_computing:
            fiber.hurry()

    def _take_for_killing(self, fiber: Fiber, fault: GuestFault) -> bool:
        if fiber.state in {FiberState.RUNNABLE, FiberState.WAITING}:
            fiber.state = FiberState.ENDED
            return True
        if fiber.state is not FiberState.ENDED and fiber.kill_fault is None:
            fiber.kill_fault = fault
        return False

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Call `action` on an executor thread at a time.monotonic() value; it must be short."""
        timer = Timer(when, action)
        with self._work:
            self._timers.add(timer)
            self._tell()
        return timer

    def cancel_timer(self, timer: Timer) -> None:
        """Do not call its action, if that is not under way."""
        with self._lock:
            self._timers.cancel(timer)

    def defer(self, chore: Callable[[], None]) -> None:
        """Do something that takes milliseconds, on a thread that no guest and no deadline waits for."""
        self._chores.submit(_do_chore, chore)

    def repeat(self, every: float, chore: Callable[[], None]) -> None:
        """Do a chore again and again, so many seconds after it was done last, for as long as there are threads."""

        def do_and_repeat() -> None:
            try:
                chore()
            finally:
                self.repeat(every, chore)

        self.at(time.monotonic() + every, lambda: self.defer(do_and_repeat))

    def close(self) -> None:
        """Stop the threads and wait for them. All fibers must have ended."""
        with self._work:
            self._closing = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join()
        self._chores.shutdown()

    def _put_back(self, fiber: Fiber) -> None:
        wait = fiber.waits_for
        with self._work:
            doomed = fiber.kill_fault
            if doomed is None:
                if fiber.timer is None:
                    fiber.timer = Timer(fiber.deadline, lambda: self.kill(fiber, _out_of_time()))
                    self._timers.add(fiber.timer)
                if wait is None:
                    fiber.state = FiberState.RUNNABLE
                    self._queue.push(fiber)
                else:
                    fiber.state = FiberState.WAITING
                    self._set_alarm(fiber, wait)
                self._tell()  # of the guest, or of its deadline
            else:
                fiber.state = FiberState.ENDED
        if doomed is not None:
            self._finish(fiber, fiber.kill(doomed))
        elif wait is not None:
            wait.when_over(partial(self._wake, fiber))

    def _wake(self, fiber: Fiber) -> None:
        """What a fiber waited for is over. It may have ended meanwhile, or have been woken already."""
        with self._work:
            if fiber.state is FiberState.WAITING:
                fiber.state = FiberState.RUNNABLE
                self._stop_alarm(fiber)
                self._queue.push(fiber)
                self._tell()

    def _tell(self) -> None:
        """There is something to do, now or at a time."""
        if self._busy is None or not self._is_minded:
            self._work.notify()

    def _set_alarm(self, fiber: Fiber, wait: Wait) -> None:
        # At its deadline the guest ends anyway.
        if wait.until is not None and wait.until < fiber.deadline:
            fiber.alarm = Timer(wait.until, wait.end)
            self._timers.add(fiber.alarm)

    def _stop_alarm(self, fiber: Fiber) -> None:
        if fiber.alarm is not None:
            self._timers.cancel(fiber.alarm)
            fiber.alarm = None

    def _run_turns(self) -> None:
        while (turn := self._next_turn()) is not None:
            try:
                turn()
            except Exception:
                # A bug in what a guest's end sets off. The other guests still need this thread.
                log.exception("executor turn failed")

    def _next_turn(self) -> Callable[[], None] | None:
        """What to do next, waiting for it; None when the executor closes and nothing is left to do."""
        me = threading.get_ident()
        with self._work:
            if self._busy == me:
                self._busy = None
            while True:
                if self._busy is not None:
                    self._mind()
                    continue
                action = self._timers.take_due(time.monotonic())
                if action is not None:
                    self._be_busy(me)
                    return action
                fiber = self._queue.pop()
                if fiber is not None:
                    return partial(self._run_turn, fiber, self._begin_turn(fiber, me))
                if self._closing:
                    self._work.notify_all()
                    return None
                self._watch()

    def _begin_turn(self, fiber: Fiber, thread: int) -> Pace:
        """A thread is about to run this fiber; at which pace."""
        fiber.state = FiberState.POLLED
        if fiber.is_brief:
            self._be_busy(thread)
            return Pace.FULL
        self._computing.add(fiber)
        self._leave_to_others()
        if not self._queue and len(self._computing) < len(self._threads):
            return Pace.SLOW
        for each in self._computing:
            each.hurry()
        return Pace.FULL

    def _be_busy(self, thread: int) -> None:
        self._busy = thread
        self._busy_turns += 1
        if not self._is_minded and not self._is_watched():
            self._work.notify()

    def _mind(self) -> None:
        """Wait while another thread is busy. One of those that do looks whether it gets on, and else is free to go."""
        if self._is_minded:
            self._work.wait()
            return
        turns, self._is_minded = self._busy_turns, True
        was_told = self._work.wait(MOST_BUSY_SECONDS)
        self._is_minded = False
        if not was_told and self._busy_turns == turns:
            self._busy = None

    def _leave_to_others(self) -> None:
        """This thread is about to run a guest for long: what else there is must not wait for it."""
        if self._queue or not self._is_watched():
            self._work.notify()

    def _is_watched(self) -> bool:
        """Whether a thread wakes up by itself before the next timer is due."""
        next_time = self._timers.next_time()
        return self._watched_until is not None and (next_time is None or next_time >= self._watched_until)

    def _watch(self) -> None:
        """Wait for something to do, or for the next timer."""
        next_time = self._timers.next_time()
        self._watched_until = math.inf if next_time is None else next_time
        self._work.wait(None if next_time is None else max(0.0, next_time - time.monotonic()))
        self._watched_until = None

    def _run_turn(self, fiber: Fiber, pace: Pace) -> None:
        before = fiber.cpu_ns
        outcome = fiber.run_slice(pace)
        with self._lock:
            was_cut = outcome is None and fiber.waits_for is None and fiber in self._computing
            self._computing.discard(fiber)
            fiber.charge(fiber.cpu_ns - before)
        if outcome is None:
            self._put_back(fiber)
            if was_cut:
                # The kernel may let a thread that computes go on for several ticks of its own before one that has
                # just woken up: there may be no core free for those who read requests and send answers.
                os.sched_yield()
            return
        with self._lock:
            fiber.state = FiberState.ENDED
        self._finish(fiber, outcome)

    def _finish(self, fiber: Fiber, outcome: Outcome) -> None:
        if fiber.timer is not None:  # one without has never waited
            with self._lock:
                self._timers.cancel(fiber.timer)
                self._stop_alarm(fiber)
        fiber.end(outcome)


def _goes_on(fiber: Fiber) -> bool:
    """Whether a guest that has not ended in its first slices goes on where it was started."""
    return fiber.waits_for is None and fiber.kill_fault is None and fiber.cpu_ns < ON_THE_SPOT_NS


def _do_chore(chore: Callable[[], None]) -> None:
    try:
        chore()
    except Exception:
        log.exception("executor chore failed")


def _out_of_time() -> GuestFault:
    return GuestFault(ErrorCode.TIMEOUT, "the execution's time budget ended")
