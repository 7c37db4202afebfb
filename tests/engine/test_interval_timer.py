"""Timers that call C functions without Python, here with a C function that calls Python."""

from __future__ import annotations

import ctypes
import threading
from contextlib import closing
from typing import ClassVar

import pytest

from spear_wasm.engine.interval_timer import IntervalTimer

NEVER = 3600.0
SOON = 0.001


class Calls:
    """A C function that counts its calls. It is never freed: a call may come late."""

    _all: ClassVar[list[Calls]] = []

    def __init__(self) -> None:
        self.made: list[tuple[int, int]] = []
        self.happened = threading.Semaphore(0)
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._note)
        address = ctypes.cast(self._callback, ctypes.c_void_p).value
        assert address is not None
        self.address = address
        self._all.append(self)

    def _note(self, argument: int) -> None:
        self.made.append((argument, threading.get_ident()))
        self.happened.release()


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_a_timer_that_was_not_started_calls_nobody(calls: Calls) -> None:
    with closing(IntervalTimer(calls.address, 7)):
        pass
    assert calls.made == []


def test_a_running_timer_calls_again_and_again_from_threads_of_its_own(calls: Calls) -> None:
    with closing(IntervalTimer(calls.address, 7)) as timer:
        timer.start(SOON)
        for _ in range(3):
            assert calls.happened.acquire(timeout=10)
        made = list(calls.made)
        timer.stop()
    assert {argument for argument, _ in made} == {7}
    assert threading.get_ident() not in {thread for _, thread in made}


def test_a_stopped_timer_can_be_started_again(calls: Calls) -> None:
    with closing(IntervalTimer(calls.address, 7)) as timer:
        timer.start(SOON)
        timer.stop()
        timer.start(SOON)
        assert calls.happened.acquire(timeout=10)
        assert calls.happened.acquire(timeout=10)
        timer.stop()


def test_a_closed_timer_calls_no_more(calls: Calls) -> None:
    with closing(IntervalTimer(calls.address, 7)) as timer:
        timer.start(SOON)
        assert calls.happened.acquire(timeout=10)
    made, clock = len(calls.made), Calls()
    with closing(IntervalTimer(clock.address, 7)) as timer:
        timer.start(SOON)
        for _ in range(20):
            assert clock.happened.acquire(timeout=10)
        timer.stop()
    assert len(calls.made) < made + 5  # on a busy machine a call that was on its way may come late


def test_a_period_that_the_system_does_not_take_is_an_error(calls: Calls) -> None:
    with closing(IntervalTimer(calls.address, 7)) as timer, pytest.raises(OSError, match="Invalid"):
        timer.start(-1.0)


def test_a_running_timer_takes_another_period_at_once(calls: Calls) -> None:
    with closing(IntervalTimer(calls.address, 7)) as timer:
        timer.start(NEVER)
        timer.start(SOON)
        assert calls.happened.acquire(timeout=10)
        timer.stop()
