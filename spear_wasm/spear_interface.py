"""The host functions of the module `spear`: a log, clocks, randomness, sleep, messages, and a way to fail.

Any core or WASI module may import them. They see no more of the host than the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator

from spear_wasm.engine.host_calls import CallingSandbox, HostFunction, Waits
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.model import ErrorCode, FunctionType, ValueType

I32, I64 = ValueType.I32, ValueType.I64
MAX_FAIL_MESSAGE_BYTES = 4096
LEVELS = (b"trace", b"debug", b"info", b"warn", b"error")


def _log(sandbox: CallingSandbox, level: int, address: int, length: int) -> int:
    sandbox.log(LEVELS[min(max(level, 0), len(LEVELS) - 1)] + b": ")
    sandbox.log_from_memory(address, length)
    sandbox.log(b"\n")
    return 0


def _write_log(sandbox: CallingSandbox, address: int, length: int) -> None:
    sandbox.log_from_memory(address, length)


def _fail(sandbox: CallingSandbox, address: int, length: int) -> None:
    message = sandbox.read_memory(address, min(length & 0xFFFFFFFF, MAX_FAIL_MESSAGE_BYTES))
    raise GuestFault(ErrorCode.GUEST_ERROR, message.decode("utf-8", "replace"))


def _emit(sandbox: CallingSandbox, address: int, length: int) -> Waits:
    return sandbox.emit_from_memory(address, length)


def _sleep_ms(_: CallingSandbox, duration: int) -> Generator[Wait, None, None]:
    yield Wait(until=time.monotonic() + max(duration, 0) / 1000)


def _time_now_ms(_: CallingSandbox) -> int:
    return time.time_ns() // 1_000_000


def _wall_time_s(_: CallingSandbox) -> int:
    return time.time_ns() // 1_000_000_000


def _random_i64(_: CallingSandbox) -> int:
    return int.from_bytes(os.urandom(8), signed=True)


SPEAR_FUNCTIONS = (
    # SPEAR's own guests declare a result, which is always 0; others need none.
    HostFunction("spear", "log", FunctionType((I32, I32, I32), (I32,)), _log),
    HostFunction("spear", "log", FunctionType((I32, I32, I32)), _log),
    HostFunction("spear", "write_log", FunctionType((I32, I32)), _write_log),
    HostFunction("spear", "fail", FunctionType((I32, I32)), _fail),
    HostFunction("spear", "emit", FunctionType((I32, I32)), _emit, waits=True),
    HostFunction("spear", "sleep_ms", FunctionType((I32,)), _sleep_ms, waits=True),
    HostFunction("spear", "time_now_ms", FunctionType((), (I64,)), _time_now_ms),
    HostFunction("spear", "wall_time_s", FunctionType((), (I64,)), _wall_time_s),
    HostFunction("spear", "random_i64", FunctionType((), (I64,)), _random_i64),
)
