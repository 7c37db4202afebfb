"""wasi:io/poll: waiting until something has come about."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.model import ErrorCode
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wit.values import WitValue

POLL = Interface("wasi:io/poll", "pollable")


class Pollable:
    """wasi:io/poll's `pollable`: something that can be waited for. This one has come about already."""

    def awaited(self) -> Wait | None:
        """What to wait for; None where it has come about."""
        return None

    def close(self) -> None:
        """There is nothing to give back."""


class Timer(Pollable):
    """A moment, by time.monotonic_ns()."""

    def __init__(self, at: int) -> None:
        self._at = at

    def awaited(self) -> Wait | None:
        """The moment."""
        return None if self._at <= time.monotonic_ns() else Wait(until=self._at / 1e9)


class Awaiting(Pollable):
    """The end of a Wait."""

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    def awaited(self) -> Wait | None:
        """It."""
        return None if self._wait.over else self._wait


def _first_of(waits: Sequence[Wait]) -> Wait:
    """What is over when the first of several is."""
    if len(waits) == 1:
        return waits[0]
    first = Wait(until=min((each.until for each in waits if each.until is not None), default=None))
    for each in waits:
        if each.until is None:
            each.when_over(first.end)
    return first


def _come_about(pollables: Sequence[Pollable]) -> Generator[Wait, None, WitValue]:
    """Wait until something has; the places of all that has."""
    while True:
        waits = [each.awaited() for each in pollables]
        ready: list[WitValue] = [place for place, wait in enumerate(waits) if wait is None]
        if ready:
            return ready
        yield _first_of([wait for wait in waits if wait is not None])


@POLL.function("[method]pollable.ready", "func(self: borrow<pollable>) -> bool")
def ready(guest: ComponentGuest, number: int) -> WitValue:
    return guest.resources.get(number, Pollable).awaited() is None


@POLL.waiting("[method]pollable.block", "func(self: borrow<pollable>)")
def block(guest: ComponentGuest, number: int) -> Generator[Wait, None, WitValue]:
    yield from _come_about([guest.resources.get(number, Pollable)])
    return None


@POLL.waiting("poll", "func(in: list<borrow<pollable>>) -> list<u32>")
def poll(guest: ComponentGuest, numbers: Sequence[int]) -> Generator[Wait, None, WitValue]:
    if not numbers:
        raise GuestFault(ErrorCode.GUEST_ERROR, "the guest waits for nothing: its list of pollables is empty")
    places = yield from _come_about([guest.resources.get(number, Pollable) for number in numbers])
    return places
