"""wasi:clocks: the time of day, and a clock that begins with the guest, for which it can wait."""

from __future__ import annotations

import time

from spear_wasm.wasi.clocks import RESOLUTION, monotonic_ns
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wasi.preview2.poll import Timer
from spear_wasm.wit.values import WitValue

MONOTONIC_CLOCK = Interface("wasi:clocks/monotonic-clock")
WALL_CLOCK = Interface("wasi:clocks/wall-clock")

DATETIME = "record { seconds: u64, nanoseconds: u32 }"
NANOSECONDS = 1_000_000_000


def datetime_of(nanoseconds: int) -> dict[str, WitValue]:
    """A time since 1970."""
    return {"seconds": nanoseconds // NANOSECONDS, "nanoseconds": nanoseconds % NANOSECONDS}


@MONOTONIC_CLOCK.function("now", "func() -> u64")
def monotonic_now(guest: ComponentGuest) -> WitValue:
    return monotonic_ns(guest)


@MONOTONIC_CLOCK.function("resolution", "func() -> u64")
def monotonic_resolution(_: ComponentGuest) -> WitValue:
    return RESOLUTION


@MONOTONIC_CLOCK.function("subscribe-instant", "func(when: u64) -> own<pollable>")
def subscribe_instant(guest: ComponentGuest, when: int) -> WitValue:
    return guest.resources.add(Timer(guest.began + when))


@MONOTONIC_CLOCK.function("subscribe-duration", "func(when: u64) -> own<pollable>")
def subscribe_duration(guest: ComponentGuest, duration: int) -> WitValue:
    return guest.resources.add(Timer(time.monotonic_ns() + duration))


@WALL_CLOCK.function("now", f"func() -> {DATETIME}")
def wall_now(_: ComponentGuest) -> WitValue:
    return datetime_of(time.time_ns())


@WALL_CLOCK.function("resolution", f"func() -> {DATETIME}")
def wall_resolution(_: ComponentGuest) -> WitValue:
    return datetime_of(RESOLUTION)


CLOCKS = (MONOTONIC_CLOCK, WALL_CLOCK)
