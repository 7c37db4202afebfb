"""The threads that run guests: whose turn it is, and how guests end, whatever state they are in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
import structlog
from structlog.testing import capture_logs

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.ticker import Pace
from spear_wasm.engine.wait import Wait
from spear_wasm.execution.executor import Executor
from spear_wasm.execution.fiber import Run
from spear_wasm.model import ErrorCode, ExecutionStatus, TypedValue, ValueType
from tests.execution.fake_fibers import (
    A_LONG_TIME,
    MS,
    PATIENCE,
    SLOW_PERIOD_MS,
    FakeClock,
    FakeFiber,
    Gate,
    Guest,
    held,
)
from tests.workshop import at_once

CANCELLED = GuestFault(ErrorCode.CANCELLED, "the caller changed their mind")
ENDLESS = 10**9


@pytest.fixture
def executor() -> Iterator[Executor]:
    """One thread, so that turns have an order."""
    executor = Executor(threads=1)
    yield executor
    executor.close()


def is_ours(thread: str) -> bool:
    return thread.startswith("spear-executor-")


# --- running ----------------------------------------------------------------------------------------------


def test_a_guest_is_run_slice_by_slice_to_its_end_on_a_thread_of_the_executor(executor: Executor) -> None:
    guest = Guest(slices=3)
    fiber = FakeFiber(guest.run())
    executor.start(fiber)
    outcome = fiber.outcome()
    assert outcome.status is ExecutionStatus.COMPLETED
    assert outcome.values == (TypedValue(ValueType.I32, 3),)
    assert all(map(is_ours, guest.polled_on))


def test_on_the_spot_a_quick_guest_ends_before_start_returns(executor: Executor, clock: FakeClock) -> None:
    guest = Guest(slices=3, use=lambda: clock.use(MS // 10))
    fiber = FakeFiber(guest.run())
    executor.start(fiber, on_the_spot=True)
    assert fiber.has_ended()
    assert guest.polled_on == [threading.current_thread().name] * 3


def test_on_the_spot_a_guest_that_takes_its_time_goes_to_the_executor(
    executor: Executor, clock: FakeClock
) -> None:
    guest = Guest(slices=3, use=lambda: clock.use(2 * MS))
    fiber = FakeFiber(guest.run())
    with held(executor):
        executor.start(fiber, on_the_spot=True)
        assert guest.polled == 1
    assert fiber.outcome().status is ExecutionStatus.COMPLETED
    assert [is_ours(thread) for thread in guest.polled_on] == [False, True, True]


def test_what_a_guest_used_is_summed_over_its_slices(executor: Executor, clock: FakeClock) -> None:
    fiber = FakeFiber(Guest(slices=4, use=lambda: clock.use(MS)).run())
    executor.start(fiber)
    fiber.outcome()
    assert fiber.usage.cpu_ns == 4 * MS


def test_turns_are_shared_by_time_used(executor: Executor, clock: FakeClock) -> None:
    turns: list[str] = []

    def slices_of(name: str, used: int) -> Guest:
        def use() -> None:
            turns.append(name)
            clock.use(used)

        return Guest(slices=30, use=use)

    with held(executor):
        fibers = [FakeFiber(slices_of("greedy", 10).run()), FakeFiber(slices_of("modest", 1).run())]
        for fiber in fibers:
            executor.start(fiber)
    for fiber in fibers:
        fiber.outcome()
    assert "".join(name[0] for name in turns[:23]) == "gm" + "m" * 9 + "gm" + "m" * 9 + "g"


def test_all_threads_take_part() -> None:
    executor = Executor(threads=3)
    together = threading.Barrier(3)
    fibers = [FakeFiber(Guest(use=lambda: together.wait(PATIENCE)).run()) for _ in range(3)]
    for fiber in fibers:
        executor.start(fiber)
    assert {fiber.outcome().status for fiber in fibers} == {ExecutionStatus.COMPLETED}
    executor.close()


# --- brief guests and others ------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[Executor]:
    executor = Executor(threads=2)
    yield executor
    executor.close()


def test_a_brief_guest_that_takes_long_holds_nobody_up(two_threads: Executor) -> None:
    gate, due = Gate(), threading.Event()
    stuck = FakeFiber(Guest(use=gate).run(), is_brief=True)
    two_threads.start(stuck)
    gate.wait_until_reached()
    others = [FakeFiber(Guest(slices=3).run(), is_brief=True) for _ in range(3)]
    for fiber in others:
        two_threads.start(fiber)
    two_threads.at(time.monotonic() + 0.01, due.set)
    for fiber in others:
        assert fiber.outcome().status is ExecutionStatus.COMPLETED
    assert due.wait(PATIENCE)
    assert not stuck.has_ended()
    gate.open()
    assert stuck.outcome().status is ExecutionStatus.COMPLETED


def test_a_guest_that_keeps_nobody_waiting_has_long_slices(two_threads: Executor) -> None:
    fiber = FakeFiber(Guest(slices=3).run())
    two_threads.start(fiber)
    fiber.outcome()
    assert fiber.paces == [Pace.SLOW] * 3
    assert not fiber.hurried.is_set()


def test_slices_are_short_where_no_thread_is_left_for_timers(executor: Executor) -> None:
    fiber = FakeFiber(Guest(slices=3).run())
    executor.start(fiber)
    fiber.outcome()
    assert fiber.paces == [Pace.FULL] * 3


def test_a_long_slice_is_cut_short_when_another_guest_takes_the_last_thread(two_threads: Executor) -> None:
    gate = Gate()
    first, second = FakeFiber(Guest(use=gate).run()), FakeFiber(Guest().run())
    two_threads.start(first)
    gate.wait_until_reached()
    two_threads.start(second)
    assert first.hurried.wait(PATIENCE)
    second.outcome()
    assert second.paces == [Pace.FULL]
    gate.open()
    first.outcome()


def test_slices_are_short_while_other_guests_wait_for_a_turn(two_threads: Executor) -> None:
    with held(two_threads, threads=2):
        fibers = [FakeFiber(Guest().run()) for _ in range(2)]
        for fiber in fibers:
            two_threads.start(fiber)
    for fiber in fibers:
        fiber.outcome()
    assert Pace.FULL in fibers[0].paces + fibers[1].paces


def test_a_guest_that_is_killed_in_a_long_slice_has_to_hurry(two_threads: Executor) -> None:
    gate = Gate()
    fiber = FakeFiber(Guest(slices=2, use=gate).run())
    two_threads.start(fiber)
    gate.wait_until_reached()
    assert fiber.paces == [Pace.SLOW]
    two_threads.kill(fiber, CANCELLED)
    assert fiber.hurried.is_set()
    gate.open()
    assert fiber.outcome().status is ExecutionStatus.CANCELLED


def test_the_last_slices_of_a_guests_cpu_time_are_short(two_threads: Executor, clock: FakeClock) -> None:
    guest = Guest(slices=99, use=lambda: clock.use(SLOW_PERIOD_MS * MS))
    fiber = FakeFiber(guest.run(), cpu_limit_ms=3 * SLOW_PERIOD_MS - 1)
    two_threads.start(fiber)
    assert fiber.outcome().error_code is ErrorCode.CPU_TIME_EXCEEDED
    assert fiber.paces == [Pace.SLOW, Pace.SLOW, Pace.FULL]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_nothing_is_lost_however_guests_timers_and_threads_meet(threads: int) -> None:
    executor = Executor(threads)
    fired = [threading.Event() for _ in range(200)]
    fibers = [FakeFiber(Guest(slices=1 + n % 3).run(), is_brief=n % 2 == 0) for n in range(600)]

    def hand_in(part: int) -> None:
        for number in range(part, len(fibers), 4):
            executor.start(fibers[number])
            if number < len(fired):
                executor.at(time.monotonic() + number % 7 / 1000, fired[number].set)

    at_once([partial(hand_in, part) for part in range(4)])
    for fiber in fibers:
        assert fiber.outcome().status is ExecutionStatus.COMPLETED
    assert all(event.wait(PATIENCE) for event in fired)
    executor.close()


def test_what_came_while_a_thread_was_busy_is_seen_to_beside_its_next_guest_if_that_takes_long(
    two_threads: Executor,
) -> None:
    brief, long, due = Gate(), Gate(), threading.Event()
    two_threads.start(FakeFiber(Guest(use=brief).run(), is_brief=True))
    brief.wait_until_reached()
    lasting, next_one = FakeFiber(Guest(use=long).run()), FakeFiber(Guest().run())
    two_threads.start(lasting)
    two_threads.start(next_one)
    two_threads.at(time.monotonic() + 0.01, due.set)
    brief.open()
    long.wait_until_reached()
    assert next_one.outcome().status is ExecutionStatus.COMPLETED
    assert due.wait(PATIENCE)
    assert not lasting.has_ended()
    long.open()


def test_a_guest_is_brief_for_as_long_as_it_waits_before_it_has_used_anything(clock: FakeClock) -> None:
    def run() -> Run:
        yield
        clock.use(MS)
        yield
        fiber.wait_for(None)
        yield
        return ()

    fiber = FakeFiber(run())
    fiber.wait_for(Wait())
    seen = []
    for _ in range(3):
        fiber.run_slice(Pace.FULL)
        seen.append(fiber.is_brief)
    assert seen == [True, False, False]


# --- the guest's own end ----------------------------------------------------------------------------------


def faulty(error: Exception) -> Run:
    yield
    raise error


def test_a_fault_of_the_guest_is_its_outcome(executor: Executor) -> None:
    fiber = FakeFiber(faulty(GuestFault(ErrorCode.TRAP_UNREACHABLE, "boom", trap_frames=("inner+0x1",))))
    executor.start(fiber)
    outcome = fiber.outcome()
    assert (outcome.status, outcome.error_code) == (ExecutionStatus.FAILED, ErrorCode.TRAP_UNREACHABLE)
    assert outcome.trap_frames == ("inner+0x1",)


def test_a_bug_of_the_host_ends_the_guest_and_not_the_thread(executor: Executor) -> None:
    fiber, next_one = FakeFiber(faulty(KeyError("oops"))), FakeFiber(Guest().run())
    executor.start(fiber)
    executor.start(next_one)
    assert fiber.outcome().error_code is ErrorCode.INSTANCE_FAILED
    assert fiber.outcome().error_message == "the host failed: KeyError: 'oops'"
    assert next_one.outcome().status is ExecutionStatus.COMPLETED


def test_a_guest_that_used_up_its_cpu_time_is_ended_after_that_slice(
    executor: Executor, clock: FakeClock
) -> None:
    guest = Guest(ENDLESS, use=lambda: clock.use(3 * MS))
    fiber = FakeFiber(guest.run(), cpu_limit_ms=10)
    executor.start(fiber)
    assert fiber.outcome().error_code is ErrorCode.CPU_TIME_EXCEEDED
    assert fiber.outcome().error_message == "the guest used its 10 ms of CPU time"
    assert guest.polled == 4
    assert guest.unwound


def test_a_guest_that_ends_within_its_last_millisecond_has_not_exceeded_it(
    executor: Executor, clock: FakeClock
) -> None:
    fiber = FakeFiber(Guest(slices=2, use=lambda: clock.use(5 * MS)).run(), cpu_limit_ms=10)
    executor.start(fiber)
    assert fiber.outcome().status is ExecutionStatus.COMPLETED


def test_the_cpu_limit_holds_on_the_spot_too(executor: Executor, clock: FakeClock) -> None:
    guest = Guest(ENDLESS, use=lambda: clock.use(2 * MS))
    fiber = FakeFiber(guest.run(), cpu_limit_ms=2)
    executor.start(fiber, on_the_spot=True)
    assert fiber.has_ended()
    assert fiber.outcome().error_code is ErrorCode.CPU_TIME_EXCEEDED
    assert guest.polled == 1


# --- kill -------------------------------------------------------------------------------------------------


def test_a_waiting_guest_is_ended_at_once_by_who_kills_it(executor: Executor) -> None:
    guest = Guest(ENDLESS)
    fiber = FakeFiber(guest.run())
    with held(executor):
        executor.start(fiber)
        executor.kill(fiber, CANCELLED)
        assert fiber.has_ended()
        assert fiber.outcome().status is ExecutionStatus.CANCELLED
        assert fiber.ended_on == threading.current_thread().name
    assert guest.polled == 0


def test_a_guest_that_has_run_is_unwound_when_it_is_killed(executor: Executor, clock: FakeClock) -> None:
    guest = Guest(ENDLESS, use=lambda: clock.use(2 * MS))
    fiber = FakeFiber(guest.run())
    with held(executor):
        executor.start(fiber, on_the_spot=True)
        executor.kill(fiber, CANCELLED)
    assert fiber.outcome().error_message == CANCELLED.message
    assert (guest.polled, guest.unwound) == (1, True)


def test_a_running_guest_ends_after_its_slice_and_the_killer_does_not_wait(executor: Executor) -> None:
    gate = Gate()
    guest = Guest(ENDLESS, use=gate)
    fiber = FakeFiber(guest.run())
    executor.start(fiber)
    gate.wait_until_reached()
    executor.kill(fiber, CANCELLED)
    assert not fiber.has_ended()
    gate.open()
    assert fiber.outcome().status is ExecutionStatus.CANCELLED
    assert (guest.polled, guest.unwound) == (1, True)


def test_a_guest_that_completes_in_the_slice_in_which_it_is_killed_has_completed(executor: Executor) -> None:
    gate = Gate()
    fiber = FakeFiber(Guest(use=gate).run())
    executor.start(fiber)
    gate.wait_until_reached()
    executor.kill(fiber, CANCELLED)
    gate.open()
    assert fiber.outcome().status is ExecutionStatus.COMPLETED


def test_a_guest_that_is_killed_before_it_is_started_never_runs(executor: Executor) -> None:
    guest = Guest(ENDLESS)
    fiber = FakeFiber(guest.run())
    executor.kill(fiber, CANCELLED)
    assert not fiber.has_ended()
    executor.start(fiber)
    assert fiber.has_ended()
    assert fiber.outcome().status is ExecutionStatus.CANCELLED
    assert guest.polled == 0


def untidy(clock: FakeClock) -> Run:
    try:
        clock.use(2 * MS)
        yield
    finally:
        raise KeyError("no such thing to put away")


def test_a_guest_whose_clean_up_fails_ends_all_the_same(executor: Executor, clock: FakeClock) -> None:
    fiber = FakeFiber(untidy(clock))
    with held(executor):
        executor.start(fiber, on_the_spot=True)
        executor.kill(fiber, CANCELLED)
    assert fiber.outcome().status is ExecutionStatus.CANCELLED


def test_nothing_happens_to_a_guest_that_has_ended(executor: Executor) -> None:
    fiber = FakeFiber(Guest().run())
    executor.start(fiber)
    fiber.outcome()
    executor.kill(fiber, CANCELLED)
    assert fiber.outcome().status is ExecutionStatus.COMPLETED


def test_the_first_reason_to_end_a_guest_is_the_one_that_counts(executor: Executor) -> None:
    gate = Gate()
    fiber = FakeFiber(Guest(ENDLESS, use=gate).run())
    executor.start(fiber)
    gate.wait_until_reached()
    executor.kill(fiber, CANCELLED)
    executor.kill(fiber, GuestFault(ErrorCode.TIMEOUT, "too late"))
    gate.open()
    assert fiber.outcome().error_code is ErrorCode.CANCELLED


def test_whoever_kills_a_guest_and_when_it_ends_once() -> None:
    executor = Executor(threads=2)

    def start_and_kill(fiber: FakeFiber) -> None:
        kill = partial(executor.kill, fiber, CANCELLED)
        at_once([partial(executor.start, fiber), kill, kill])
        fiber.outcome()

    for _ in range(200):
        start_and_kill(FakeFiber(Guest(slices=5).run()))
    executor.close()


# --- deadlines and other timers ---------------------------------------------------------------------------


def test_a_guest_whose_deadline_passes_while_it_waits_never_gets_its_turn(executor: Executor) -> None:
    guest = Guest(ENDLESS)
    fiber = FakeFiber(guest.run(), deadline=time.monotonic())
    with held(executor):
        executor.start(fiber)
    outcome = fiber.outcome()
    assert (outcome.status, outcome.error_code) == (ExecutionStatus.TIMEOUT, ErrorCode.TIMEOUT)
    assert guest.polled == 0


def test_a_running_guest_ends_with_the_slice_in_which_its_deadline_passes() -> None:
    executor = Executor(threads=2)
    guest = Guest(ENDLESS)
    fiber = FakeFiber(guest.run(), deadline=time.monotonic() + 0.5)
    executor.start(fiber)
    assert fiber.outcome().status is ExecutionStatus.TIMEOUT
    assert guest.unwound
    executor.close()


def test_a_deadline_is_kept_while_guests_without_end_want_turns(executor: Executor) -> None:
    others = [FakeFiber(Guest(ENDLESS).run()) for _ in range(10)]
    for other in others:
        executor.start(other)
    fiber = FakeFiber(Guest(ENDLESS).run(), deadline=time.monotonic() + 0.02)
    executor.start(fiber)
    assert fiber.outcome().status is ExecutionStatus.TIMEOUT
    for other in others:
        executor.kill(other, CANCELLED)


def test_an_action_is_done_at_its_time_unless_it_is_cancelled_first(executor: Executor) -> None:
    done: list[str] = []
    last = threading.Event()
    with held(executor):
        now = time.monotonic()
        executor.at(now - 1, lambda: done.append("second"))
        cancelled = executor.at(now - 3, lambda: done.append("cancelled"))
        executor.at(now - 2, lambda: done.append("first"))
        executor.at(now, last.set)
        executor.cancel_timer(cancelled)
    assert last.wait(PATIENCE)
    assert done == ["first", "second"]


def test_a_thread_that_waits_for_a_late_action_hears_of_an_early_one(executor: Executor) -> None:
    early = threading.Event()
    late = executor.at(time.monotonic() + A_LONG_TIME, lambda: None)
    executor.at(time.monotonic(), early.set)
    assert early.wait(PATIENCE)
    executor.cancel_timer(late)


# --- chores -----------------------------------------------------------------------------------------------


def test_chores_are_done_in_order_while_every_thread_is_busy(executor: Executor) -> None:
    done: list[int] = []
    last = threading.Event()
    with held(executor):
        for number in range(3):
            executor.defer(partial(done.append, number))
        executor.defer(last.set)
        assert last.wait(PATIENCE)
    assert done == [0, 1, 2]


def test_a_chore_keeps_neither_guests_nor_deadlines_waiting(executor: Executor) -> None:
    gate = Gate()
    executor.defer(gate)
    gate.wait_until_reached()
    fiber = FakeFiber(Guest(ENDLESS).run(), deadline=time.monotonic())
    executor.start(fiber)
    assert fiber.outcome().status is ExecutionStatus.TIMEOUT
    gate.open()


def test_a_due_deadline_comes_before_guests(executor: Executor) -> None:
    order: list[str] = []
    fiber = FakeFiber(Guest(use=lambda: order.append("guest")).run())
    with held(executor):
        executor.start(fiber)
        executor.at(time.monotonic(), lambda: order.append("deadline"))
    fiber.outcome()
    assert order == ["deadline", "guest"]


def broken() -> None:
    raise RuntimeError("a bug")


def test_threads_survive_what_a_chore_a_deadline_or_an_end_raises_and_log_it(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What another test has had logged, the logger may have been bound for.
    monkeypatch.setattr("spear_wasm.execution.executor.log", structlog.get_logger())
    done = threading.Event()
    with capture_logs() as logged:
        executor.defer(broken)
        executor.defer(done.set)
        executor.at(time.monotonic(), broken)
        executor.start(FakeFiber(Guest().run(), then=broken))
        fiber = FakeFiber(Guest(slices=2).run())
        executor.start(fiber)
        assert fiber.outcome().status is ExecutionStatus.COMPLETED
        assert done.wait(PATIENCE)
    assert sorted(entry["event"] for entry in logged) == [
        "executor chore failed", "executor turn failed", "executor turn failed",
    ]  # fmt: skip


def test_what_an_end_sets_off_may_use_the_executor(executor: Executor) -> None:
    follower = FakeFiber(Guest().run())
    executor.start(FakeFiber(Guest().run(), then=lambda: executor.start(follower)))
    assert follower.outcome().status is ExecutionStatus.COMPLETED


# --- closing ----------------------------------------------------------------------------------------------


def test_closing_does_what_is_left_and_joins_the_threads() -> None:
    executor = Executor(threads=2)
    done = threading.Event()
    with held(executor, threads=2):
        executor.defer(done.set)
        executor.at(time.monotonic() + A_LONG_TIME, broken)
    executor.close()
    assert done.is_set()
    assert not [thread for thread in threading.enumerate() if is_ours(thread.name)]


def test_closing_again_is_harmless(executor: Executor) -> None:
    executor.close()
