"""Functions about the guest itself: what it is given, clocks, randomness, its end. And sockets: it has none."""

from __future__ import annotations

import os
import time
from collections.abc import Generator

from spear_wasm.engine.host_calls import CallingSandbox, HostFunction
from spear_wasm.engine.outcome import GuestExit
from spear_wasm.engine.wait import Wait, turn_of_others
from spear_wasm.model import FunctionType, ValueType
from spear_wasm.wasi import clocks
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.preview1.calling import (
    MAX_TRANSFER_BYTES,
    MODULE,
    check_range,
    guest_of,
    put,
    put_u32,
    wasi,
    wasi_waiting,
)
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wasi.preview1.layout import U64

REALTIME, MONOTONIC = 0, 1
_CLOCKS_OF_CPU_TIME = (2, 3)


def time_of(guest: WasiGuest, clock: int) -> int:
    """The time by one of the guest's clocks, in nanoseconds. The monotonic one begins with the guest.

    Raises:
        WasiError: there is no such clock; NOTSUP for those that count what it used.
    """
    if clock == REALTIME:
        return time.time_ns()
    if clock == MONOTONIC:
        return clocks.monotonic_ns(guest)
    raise WasiError(Errno.NOTSUP if clock in _CLOCKS_OF_CPU_TIME else Errno.INVAL)


@wasi("args_sizes_get", "ii")
def args_sizes_get(sandbox: CallingSandbox, count_at: int, size_at: int) -> None:
    _put_sizes(sandbox, guest_of(sandbox).arguments, count_at, size_at)


@wasi("args_get", "ii")
def args_get(sandbox: CallingSandbox, pointers_at: int, texts_at: int) -> None:
    _put_texts(sandbox, guest_of(sandbox).arguments, pointers_at, texts_at)


@wasi("environ_sizes_get", "ii")
def environ_sizes_get(sandbox: CallingSandbox, count_at: int, size_at: int) -> None:
    _put_sizes(sandbox, guest_of(sandbox).environment, count_at, size_at)


@wasi("environ_get", "ii")
def environ_get(sandbox: CallingSandbox, pointers_at: int, texts_at: int) -> None:
    _put_texts(sandbox, guest_of(sandbox).environment, pointers_at, texts_at)


def _put_sizes(sandbox: CallingSandbox, texts: tuple[bytes, ...], count_at: int, size_at: int) -> None:
    put_u32(sandbox, count_at, len(texts))
    put_u32(sandbox, size_at, sum(map(len, texts)) + len(texts))


def _put_texts(sandbox: CallingSandbox, texts: tuple[bytes, ...], pointers_at: int, texts_at: int) -> None:
    pointers, address = bytearray(), texts_at & 0xFFFFFFFF
    for text in texts:
        pointers += (address & 0xFFFFFFFF).to_bytes(4, "little")
        address += len(text) + 1
    sandbox.write_memory(pointers_at, bytes(pointers))
    sandbox.write_memory(texts_at, b"".join(text + b"\0" for text in texts))


@wasi("clock_res_get", "ii")
def clock_res_get(sandbox: CallingSandbox, clock: int, result_at: int) -> None:
    time_of(guest_of(sandbox), clock)
    put(sandbox, result_at, U64, clocks.RESOLUTION)


@wasi("clock_time_get", "iIi")
def clock_time_get(sandbox: CallingSandbox, clock: int, _precision: int, result_at: int) -> None:
    put(sandbox, result_at, U64, time_of(guest_of(sandbox), clock))


@wasi_waiting("random_get", "ii")
def random_get(sandbox: CallingSandbox, address: int, length: int) -> Generator[Wait, None, None]:
    # A guest may have memory enough to fill for a second: it is interrupted like any other.
    address, length = address & 0xFFFFFFFF, length & 0xFFFFFFFF
    check_range(sandbox, address, length)
    for at in range(0, length, MAX_TRANSFER_BYTES):
        if at:
            yield turn_of_others()
        sandbox.write_memory(address + at, os.urandom(min(length - at, MAX_TRANSFER_BYTES)))


@wasi_waiting("sched_yield", "")
def sched_yield(_: CallingSandbox) -> Generator[Wait, None, None]:
    yield turn_of_others()


def _exit(_: CallingSandbox, status: int) -> None:
    raise GuestExit(status)


proc_exit = HostFunction(MODULE, "proc_exit", FunctionType((ValueType.I32,)), _exit)


@wasi("proc_raise", "i")
def proc_raise(_: CallingSandbox, _signal: int) -> None:
    raise WasiError(Errno.NOTSUP)


def _no_socket(sandbox: CallingSandbox, number: int, *_: int) -> None:
    guest_of(sandbox).open(number)
    raise WasiError(Errno.NOTSOCK)


PROCESS_CALLS = (
    args_sizes_get, args_get, environ_sizes_get, environ_get, clock_res_get, clock_time_get, random_get,
    sched_yield, proc_exit, proc_raise,
    wasi("sock_accept", "iii")(_no_socket),
    wasi("sock_recv", "iiiiii")(_no_socket),
    wasi("sock_send", "iiiii")(_no_socket),
    wasi("sock_shutdown", "ii")(_no_socket),
)  # fmt: skip
