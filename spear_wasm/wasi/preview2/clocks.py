"""wasi:clocks and wasi:random."""

from __future__ import annotations

import os
import time

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode
from spear_wasm.wasi.clocks import RESOLUTION, monotonic_ns
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wasi.preview2.poll import Timer
from spear_wasm.wit.values import WitValue

MONOTONIC_CLOCK = Interface("wasi:clocks/monotonic-clock")
WALL_CLOCK = Interface("wasi:clocks/wall-clock")
RANDOM = Interface("wasi:random/random")
INSECURE = Interface("wasi:random/insecure")
INSECURE_SEED = Interface("wasi:random/insecure-seed")

DATETIME = "record { seconds: u64, nanoseconds: u32 }"
NANOSECONDS = 1_000_000_000
MAX_RANDOM_BYTES = 64 << 10


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


@RANDOM.function("get-random-bytes", "func(len: u64) -> list<u8>")
@INSECURE.function("get-insecure-random-bytes", "func(len: u64) -> list<u8>")
def get_random_bytes(_: ComponentGuest, length: int) -> WitValue:
    # All of them come in one go, and by the standard none may be missing.
    if length > MAX_RANDOM_BYTES:
        raise GuestFault(
            ErrorCode.GUEST_ERROR,
            f"the guest asked for {length} random bytes at once; it may ask for {MAX_RANDOM_BYTES}",
        )
    return os.urandom(length)


@RANDOM.function("get-random-u64", "func() -> u64")
@INSECURE.function("get-insecure-random-u64", "func() -> u64")
def get_random_u64(_: ComponentGuest) -> WitValue:
    return _random_u64()


@INSECURE_SEED.function("insecure-seed", "func() -> tuple<u64, u64>")
def insecure_seed(_: ComponentGuest) -> WitValue:
    return _random_u64(), _random_u64()


def _random_u64() -> int:
    return int.from_bytes(os.urandom(8), "little")


CLOCKS = (MONOTONIC_CLOCK, WALL_CLOCK, RANDOM, INSECURE, INSECURE_SEED)
