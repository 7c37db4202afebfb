"""Guests that wait in a host call have no turns, hold no thread, and end like any others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.execution.executor import Executor
from spear_wasm.model import ErrorCode, ExecutionStatus
from tests.execution.fake_fibers import A_LONG_TIME, PATIENCE, FakeFiber, Guest, held
from tests.workshop import at_once

CANCELLED = GuestFault(ErrorCode.CANCELLED, "the caller changed their mind")


@pytest.fixture
def executor() -> Iterator[Executor]:
    """One thread, which a guest that held it would keep from all others."""
    executor = Executor(threads=1)
    yield executor
    executor.close()


class Waiter:
    """A guest that waits in its first slice and ends in its second."""

    def __init__(self, *, deadline: float | None = None) -> None:
        self.wait = Wait()
        self.guest = Guest(slices=2, use=self._use)
        self.fiber = FakeFiber(self.guest.run(), deadline=deadline)

    def _use(self) -> None:
        self.fiber.wait_for(None if self.wait.over else self.wait)


def let_others_have_their_turns(executor: Executor) -> None:
    """Returns when the executor has had nothing to do but what waits."""
    other = FakeFiber(Guest(slices=20).run())
    executor.start(other)
    assert other.outcome().status is ExecutionStatus.COMPLETED


@pytest.mark.parametrize("on_the_spot", [True, False])
def test_a_guest_that_waits_has_no_turn_until_that_is_over(executor: Executor, *, on_the_spot: bool) -> None:
    waiter = Waiter()
    executor.start(waiter.fiber, on_the_spot=on_the_spot)
    let_others_have_their_turns(executor)
    assert waiter.guest.polled == 1
    assert len(executor._queue) == 0
    waiter.wait.end()
    assert waiter.fiber.outcome().status is ExecutionStatus.COMPLETED
    assert waiter.guest.polled == 2


def test_what_is_over_before_the_guest_has_left_its_slice_is_not_missed(executor: Executor) -> None:
    waiter = Waiter()

    def wait_for_what_is_over() -> None:
        waiter.fiber.wait_for(waiter.wait)
        waiter.wait.end()

    waiter.guest._use = wait_for_what_is_over
    executor.start(waiter.fiber)
    assert waiter.fiber.outcome().status is ExecutionStatus.COMPLETED


def test_what_ends_just_when_the_guest_begins_to_wait_is_not_missed(executor: Executor) -> None:
    for _ in range(300):
        waiter = Waiter()
        actions: list[Callable[[], None]] = [partial(executor.start, waiter.fiber), waiter.wait.end]
        at_once(actions)
        assert waiter.fiber.outcome().status is ExecutionStatus.COMPLETED


def test_a_guest_that_waits_ends_at_its_deadline(executor: Executor) -> None:
    waiter = Waiter(deadline=time.monotonic() + 0.05)
    executor.start(waiter.fiber, on_the_spot=True)
    assert waiter.fiber.outcome().status is ExecutionStatus.TIMEOUT
    assert waiter.guest.unwound
    assert waiter.guest.polled == 1


def test_a_guest_that_waits_is_killed_at_once_on_the_thread_of_whoever_does_it(executor: Executor) -> None:
    waiter = Waiter()
    executor.start(waiter.fiber, on_the_spot=True)
    with held(executor):
        executor.kill(waiter.fiber, CANCELLED)
        assert waiter.fiber.has_ended()
    assert waiter.fiber.ended_on == threading.current_thread().name
    assert waiter.fiber.outcome().error_code is ErrorCode.CANCELLED
    waiter.wait.end()  # too late
    let_others_have_their_turns(executor)
    assert waiter.guest.polled == 1


def test_a_guest_that_is_woken_and_killed_at_once_ends_once(executor: Executor) -> None:
    for _ in range(300):
        waiter = Waiter()
        executor.start(waiter.fiber, on_the_spot=True)
        actions: list[Callable[[], None]] = [
            waiter.wait.end,
            partial(executor.kill, waiter.fiber, CANCELLED),
        ]
        at_once(actions)
        assert waiter.fiber.outcome().status in {ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED}


def test_a_guest_that_was_doomed_in_its_slice_does_not_begin_to_wait(executor: Executor) -> None:
    waiter = Waiter()
    waiter.fiber.kill_fault = CANCELLED
    executor.start(waiter.fiber, on_the_spot=True)
    assert waiter.fiber.outcome().error_code is ErrorCode.CANCELLED


def test_thousands_wait_and_all_are_woken(executor: Executor) -> None:
    waiters = [Waiter() for _ in range(5000)]
    for waiter in waiters:
        executor.start(waiter.fiber, on_the_spot=True)
    let_others_have_their_turns(executor)
    assert not any(waiter.fiber.has_ended() for waiter in waiters)
    for waiter in waiters:
        waiter.wait.end()
    assert {waiter.fiber.outcome().status for waiter in waiters} == {ExecutionStatus.COMPLETED}


def test_deadlines_that_come_before_those_set_earlier_are_kept(executor: Executor) -> None:
    far, near = Waiter(deadline=time.monotonic() + A_LONG_TIME), Waiter(deadline=time.monotonic() + 0.05)
    executor.start(far.fiber)
    executor.start(near.fiber)
    assert near.fiber._over.wait(PATIENCE)
    assert not far.fiber.has_ended()
    executor.kill(far.fiber, CANCELLED)
