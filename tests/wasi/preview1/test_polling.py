"""Waiting for times and descriptors: what is there at once, what is waited for, what is refused."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

import pytest

from spear_wasm.wasi.errno import Errno
from spear_wasm.wasi.guest import WasiCall
from tests.wasi.preview1.guests import MEMORY_BYTES, OUT, Guest, Guests
from tests.workshop import run_to_end

EVENTS = 30_000
REALTIME, MONOTONIC = 0, 1
MILLISECOND = 1_000_000
CLOCK, READ, WRITE = range(3)


@dataclass(frozen=True)
class Event:
    userdata: int
    errno: int
    kind: int
    size: int = 0


def clock(userdata: int, timeout: int, *, clock_id: int = MONOTONIC, absolute: bool = False) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, CLOCK, clock_id, timeout, 0, absolute)


def descriptor(userdata: int, kind: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, kind, fd)


def poll(guest: Guest, *subscriptions: bytes) -> tuple[Errno, list[Event]]:
    guest.write(0, b"".join(subscriptions))
    errno = guest.call("poll_oneoff", 0, EVENTS, len(subscriptions), OUT)
    if errno is not Errno.SUCCESS:
        return errno, []
    events = struct.iter_unpack("<QHB5xQH6x", guest.read(EVENTS, guest.number() * 32))
    return errno, [Event(userdata, code, kind, size) for userdata, code, kind, size, _ in events]


def test_a_guest_sleeps_until_the_first_of_its_times(guests: Guests) -> None:
    with guests.one() as guest:
        guest.write(0, clock(1, 10**18) + clock(2, 50 * MILLISECOND))
        begun = time.monotonic()
        steps = guest.start("poll_oneoff", 0, EVENTS, 2, OUT)
        wait = guest.wait(steps)
        assert wait.until is not None
        assert begun < wait.until <= time.monotonic() + 0.05
        time.sleep(max(0.0, wait.until - time.monotonic()))
        wait.end()
        assert run_to_end(guest.sandbox, steps) == (0,)
        assert guest.number() == 1
        assert struct.unpack("<QHB", guest.read(EVENTS, 11)) == (2, 0, CLOCK)


@pytest.mark.parametrize("clock_id", [REALTIME, MONOTONIC])
def test_a_time_that_has_come_is_not_waited_for(guests: Guests, clock_id: int) -> None:
    with guests.one() as guest:
        assert guest.call("clock_time_get", clock_id, 0, OUT) is Errno.SUCCESS
        now = guest.long_number()
        for subscription in (
            clock(7, 0, clock_id=clock_id),
            clock(7, now, clock_id=clock_id, absolute=True),
            clock(7, 0, clock_id=clock_id, absolute=True),
        ):
            assert poll(guest, subscription) == (Errno.SUCCESS, [Event(7, 0, CLOCK)])


@pytest.mark.parametrize("timeout", [10**18, 2**64 - 1])
def test_a_time_that_never_comes_is_waited_for(guests: Guests, timeout: int) -> None:
    with guests.one() as guest:
        for absolute in (False, True):
            guest.write(0, clock(7, timeout, absolute=absolute))
            steps = guest.start("poll_oneoff", 0, EVENTS, 1, OUT)
            wait = guest.wait(steps)
            assert wait.until is not None
            assert wait.until > time.monotonic() + 10**8
            guest.end()


def test_what_can_be_read_and_written_is_there_at_once(guests: Guests) -> None:
    with guests.one(WasiCall(stdin=b"abc")) as guest:
        subscriptions = [
            clock(1, 10**18), descriptor(2, READ, 0), descriptor(3, WRITE, 1), descriptor(4, WRITE, 2),
        ]  # fmt: skip
        assert poll(guest, *subscriptions) == (
            Errno.SUCCESS,
            [Event(2, 0, READ, 3), Event(3, 0, WRITE, 1), Event(4, 0, WRITE, 1)],
        )


def test_what_cannot_be_waited_for_is_told_by_its_event(guests: Guests) -> None:
    with guests.one() as guest:
        subscriptions = [
            clock(1, 0, clock_id=2), clock(2, 0, clock_id=9), descriptor(3, READ, 1), descriptor(4, WRITE, 0),
            descriptor(5, READ, 0xFFFFFFFF),
        ]  # fmt: skip
        assert poll(guest, *subscriptions) == (
            Errno.SUCCESS,
            [
                Event(1, Errno.NOTSUP, CLOCK), Event(2, Errno.INVAL, CLOCK), Event(3, Errno.BADF, READ),
                Event(4, Errno.BADF, WRITE), Event(5, Errno.BADF, READ),
            ],
        )  # fmt: skip


@pytest.mark.parametrize("count", [0, 1025, 0xFFFFFFFF])
def test_nothing_and_too_much_cannot_be_waited_for(guests: Guests, count: int) -> None:
    with guests.one() as guest:
        assert guest.call("poll_oneoff", 0, EVENTS, count, OUT) is Errno.INVAL


def test_subscriptions_of_no_kind_and_outside_of_the_memory_are_refused(guests: Guests) -> None:
    with guests.one() as guest:
        assert poll(guest, descriptor(1, 3, 0))[0] is Errno.INVAL
        for at in (MEMORY_BYTES - 3, 0xFFFFFFFF):
            assert guest.call("poll_oneoff", at, EVENTS, 1, OUT) is Errno.FAULT
            assert guest.call("poll_oneoff", 0, at, 1024, OUT) is Errno.FAULT
            guest.write(0, clock(1, 0))
            assert guest.call("poll_oneoff", 0, EVENTS, 1, at) is Errno.FAULT


def test_a_turn_can_be_given_away(guests: Guests) -> None:
    with guests.one() as guest:
        steps = guest.start("sched_yield")
        wait = guest.wait(steps)
        assert wait.over
        assert run_to_end(guest.sandbox, steps) == (0,)
