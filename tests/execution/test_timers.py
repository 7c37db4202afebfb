"""Deadlines: in order of time, gone when cancelled, and not piling up."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.timers import Timer, Timers


def nothing() -> None:
    pass


def fire_all(timers: Timers, now: float) -> None:
    while (action := timers.take_due(now)) is not None:
        action()


class Log:
    """What timers did, in order."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def writes(self, entry: str) -> Callable[[], None]:
        return lambda: self.entries.append(entry)


def test_timers_are_due_in_order_of_time_and_of_arming_where_that_is_equal() -> None:
    timers, log = Timers(), Log()
    for when, entry in ((2.0, "late"), (1.0, "early"), (1.0, "early too"), (3.0, "later")):
        timers.add(Timer(when, log.writes(entry)))
    fire_all(timers, 2.0)
    assert log.entries == ["early", "early too", "late"]
    assert timers.next_time() == 3.0


def test_nothing_is_due_before_its_time() -> None:
    timers = Timers()
    timers.add(Timer(2.0, nothing))
    assert timers.take_due(1.999) is None
    assert timers.take_due(2.0) is not None
    assert timers.take_due(2.0) is None
    assert timers.next_time() is None


def test_a_cancelled_timer_is_neither_due_nor_waited_for() -> None:
    timers, log = Timers(), Log()
    first, second = Timer(1.0, log.writes("first")), Timer(2.0, log.writes("second"))
    timers.add(first)
    timers.add(second)
    timers.cancel(first)
    timers.cancel(first)
    assert timers.next_time() == 2.0
    fire_all(timers, 5.0)
    assert log.entries == ["second"]


def test_cancelling_a_timer_that_was_due_changes_nothing() -> None:
    timers = Timers()
    timer = Timer(1.0, nothing)
    timers.add(timer)
    assert timers.take_due(1.0) is not None
    timers.cancel(timer)
    assert len(timers) == 0
    assert timers.next_time() is None


def test_cancelled_timers_do_not_pile_up_behind_one_that_stays() -> None:
    timers = Timers()
    timers.add(Timer(0.0, nothing))
    for _ in range(10_000):
        timer = Timer(1e9, nothing)
        timers.add(timer)
        timers.cancel(timer)
        assert len(timers) < 200
    assert timers.take_due(1.0) is not None
    assert timers.next_time() is None


def test_a_timer_lets_go_of_what_it_would_have_ended() -> None:
    class Guest:
        def end(self) -> None: ...

    timers = Timers()
    for end_of in (timers.cancel, lambda _: timers.take_due(1.0)):
        guest = Guest()
        timer = Timer(1.0, guest.end)
        timers.add(timer)
        gone = weakref.ref(guest)
        gc.disable()
        try:
            del guest
            end_of(timer)
            assert gone() is None
        finally:
            gc.enable()


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=200), st.floats(0, 100))
def test_what_is_due_is_what_was_armed_for_then_and_not_cancelled(
    armed: list[tuple[float, bool]], now: float
) -> None:
    timers, log = Timers(), Log()
    entries = [(when, Timer(when, log.writes(f"{when}")), cancelled) for when, cancelled in armed]
    for _, timer, _ in entries:
        timers.add(timer)
    for _, timer, cancelled in entries:
        if cancelled:
            timers.cancel(timer)
    left = sorted(when for when, _, cancelled in entries if not cancelled)
    fire_all(timers, now)
    assert log.entries == [f"{when}" for when in left if when <= now]
    assert timers.next_time() == next((when for when in left if when > now), None)
