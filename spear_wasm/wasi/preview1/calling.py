"""How a function of WASI is defined: its errors become the number that it returns, and memory is read by shapes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from spear_wasm.engine.host_calls import CallingSandbox, HostFunction, Waits
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.model import ErrorCode, FunctionType, ValueType
from spear_wasm.wasi.errno import Errno, WasiError, number_of
from spear_wasm.wasi.preview1.layout import IOVEC, U32

if TYPE_CHECKING:
    from spear_wasm.wasi.preview1.guest import WasiGuest

MODULE = "wasi_snapshot_preview1"
MAX_IOVECS = 1024
MAX_TRANSFER_BYTES = 1 << 20
"""What one call reads or writes at most; a guest that wants more calls again."""
_TYPES = {"i": ValueType.I32, "I": ValueType.I64}

Function: TypeAlias = Callable[..., None]
WaitingFunction: TypeAlias = Callable[..., Generator[Wait, None, None]]


def wasi(name: str, params: str) -> Callable[[Function], HostFunction]:
    """A function with those parameters (i for 32 bits, I for 64), given the sandbox first."""

    def define(function: Function) -> HostFunction:
        def answer(sandbox: CallingSandbox, *args: int) -> int:
            try:
                function(sandbox, *args)
            except (WasiError, OSError, GuestFault) as error:
                return _told(error)
            return Errno.SUCCESS

        return HostFunction(MODULE, name, _type_of(params), answer)

    return define


def wasi_waiting(name: str, params: str) -> Callable[[WaitingFunction], HostFunction]:
    """The same for one that waits."""

    def define(function: WaitingFunction) -> HostFunction:
        def answer(sandbox: CallingSandbox, *args: int) -> Waits:
            try:
                yield from function(sandbox, *args)
            except (WasiError, OSError, GuestFault) as error:
                return _told(error)
            return Errno.SUCCESS

        return HostFunction(MODULE, name, _type_of(params), answer, waits=True)

    return define


def _told(error: WasiError | OSError | GuestFault) -> Errno:
    """What a guest is told of an error; raises one that is its end."""
    if not isinstance(error, GuestFault):
        return number_of(error)
    if error.code is not ErrorCode.GUEST_ERROR:
        raise error
    return Errno.FAULT  # it named what is not inside of its memory


def _type_of(params: str) -> FunctionType:
    return FunctionType(tuple(_TYPES[each] for each in params), (ValueType.I32,))


class HasWasi(Protocol):
    """The state of a sandbox of a runtime that has WASI."""

    @property
    def wasi(self) -> WasiGuest:
        """What its guest has of the world."""
        ...


def guest_of(sandbox: CallingSandbox) -> WasiGuest:
    """What the guest in a sandbox of a runtime that has WASI has of the world."""
    return cast("HasWasi", sandbox.state).wasi


def put(sandbox: CallingSandbox, address: int, shape: struct.Struct, *values: int) -> None:
    """Write values to the guest's memory."""
    sandbox.write_memory(address, shape.pack(*values))


def path_at(sandbox: CallingSandbox, address: int, length: int) -> bytes:
    """A path, which must be UTF-8, and not longer than any host has them."""
    length &= 0xFFFFFFFF
    if length > 4 * 4096:
        raise WasiError(Errno.NAMETOOLONG)
    path = sandbox.read_memory(address, length)
    try:
        path.decode()
    except UnicodeDecodeError:
        raise WasiError(Errno.ILSEQ) from None
    return path


def buffers_at(sandbox: CallingSandbox, address: int, count: int) -> list[tuple[int, int]]:
    """Address and length of each buffer in a list of them, up to what one call transfers.

    All of them lie inside of the memory: nothing is moved before that is known.
    """
    count &= 0xFFFFFFFF
    if count > MAX_IOVECS:
        raise WasiError(Errno.INVAL)
    buffers, room = [], MAX_TRANSFER_BYTES
    for start, length in IOVEC.iter_unpack(sandbox.read_memory(address, count * IOVEC.size)):
        check_range(sandbox, start, length)
        buffers.append((start, min(length, room)))
        room -= min(length, room)
    return buffers


def check_range(sandbox: CallingSandbox, address: int, length: int) -> None:
    """Refuse a range that is not inside of the guest's memory; both are numbers without a sign."""
    if address + length > sandbox.memory_bytes():
        raise WasiError(Errno.FAULT)


def gather(sandbox: CallingSandbox, address: int, count: int) -> bytes:
    """What is in a list of buffers, up to what one call transfers."""
    return b"".join(sandbox.read_memory(*each) for each in buffers_at(sandbox, address, count))


def scatter(sandbox: CallingSandbox, buffers: Iterable[tuple[int, int]], content: bytes) -> None:
    """Fill buffers one after the other."""
    at = 0
    for address, length in buffers:
        sandbox.write_memory(address, content[at : at + length])
        at += length


def put_u32(sandbox: CallingSandbox, address: int, value: int) -> None:
    """Write a 32-bit number."""
    put(sandbox, address, U32, value)
