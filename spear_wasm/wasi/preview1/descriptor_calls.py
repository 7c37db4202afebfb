"""Functions on what is open."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from enum import IntFlag

from spear_wasm.engine.host_calls import CallingSandbox
from spear_wasm.engine.wait import Wait, turn_of_others
from spear_wasm.wasi.descriptors import offset_of
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.preview1.calling import (
    MAX_TRANSFER_BYTES,
    buffers_at,
    check_range,
    gather,
    guest_of,
    put,
    put_u32,
    scatter,
    wasi,
    wasi_waiting,
)
from spear_wasm.wasi.preview1.layout import (
    DIRENT,
    PRESTAT,
    U64,
    filestat_of_stream,
    packed_fdstat,
    packed_filestat,
)
from spear_wasm.wasi.types import FdFlags

WHENCES = (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END)
MAX_ADVICE = 5


class TimeFlags(IntFlag):
    """Which times are set, and to what."""

    ACCESS = 1
    ACCESS_NOW = 2
    MODIFIED = 4
    MODIFIED_NOW = 8


def times_of(flags: int, access: int, modified: int, now: os.stat_result) -> tuple[int, int]:
    """The times of access and of modification that are asked for, in nanoseconds; the others as they are."""
    wanted = TimeFlags(flags & 15)
    both_access, both_modified = (
        TimeFlags.ACCESS | TimeFlags.ACCESS_NOW,
        TimeFlags.MODIFIED | TimeFlags.MODIFIED_NOW,
    )
    if both_access in wanted or both_modified in wanted:
        raise WasiError(Errno.INVAL)
    return (
        _time(wanted, TimeFlags.ACCESS, TimeFlags.ACCESS_NOW, access, now.st_atime_ns),
        _time(wanted, TimeFlags.MODIFIED, TimeFlags.MODIFIED_NOW, modified, now.st_mtime_ns),
    )


def _time(wanted: TimeFlags, given: TimeFlags, current: TimeFlags, value: int, kept: int) -> int:
    if current in wanted:
        return time.time_ns()
    return value & 0xFFFF_FFFF_FFFF_FFFF if given in wanted else kept


@wasi("fd_advise", "iIIi")
def fd_advise(sandbox: CallingSandbox, fd: int, offset: int, size: int, advice: int) -> None:
    guest_of(sandbox).open(fd).file()
    offset_of(offset)
    offset_of(size)
    if not 0 <= advice <= MAX_ADVICE:
        raise WasiError(Errno.INVAL)


@wasi("fd_allocate", "iII")
def fd_allocate(sandbox: CallingSandbox, fd: int, _offset: int, _size: int) -> None:
    guest_of(sandbox).open(fd).file()
    raise WasiError(Errno.NOTSUP)


@wasi("fd_close", "i")
def fd_close(sandbox: CallingSandbox, fd: int) -> None:
    guest_of(sandbox).shut(fd)


@wasi_waiting("fd_sync", "i")
def fd_sync(sandbox: CallingSandbox, fd: int) -> Generator[Wait, None, None]:
    yield from guest_of(sandbox).open(fd).file().sync()


@wasi_waiting("fd_datasync", "i")
def fd_datasync(sandbox: CallingSandbox, fd: int) -> Generator[Wait, None, None]:
    yield from guest_of(sandbox).open(fd).file().sync()


@wasi("fd_fdstat_get", "ii")
def fd_fdstat_get(sandbox: CallingSandbox, fd: int, result_at: int) -> None:
    sandbox.write_memory(result_at, packed_fdstat(guest_of(sandbox).open(fd).stat()))


@wasi("fd_fdstat_set_flags", "ii")
def fd_fdstat_set_flags(sandbox: CallingSandbox, fd: int, flags: int) -> None:
    guest_of(sandbox).open(fd).set_flags(FdFlags(flags & 31))


@wasi("fd_fdstat_set_rights", "iII")
def fd_fdstat_set_rights(sandbox: CallingSandbox, fd: int, _rights: int, _inherited: int) -> None:
    guest_of(sandbox).open(fd)
    raise WasiError(Errno.NOTSUP)


@wasi("fd_filestat_get", "ii")
def fd_filestat_get(sandbox: CallingSandbox, fd: int, result_at: int) -> None:
    descriptor = guest_of(sandbox).open(fd)
    status = descriptor.status()
    filestat = filestat_of_stream(descriptor.stat().type) if status is None else packed_filestat(status)
    sandbox.write_memory(result_at, filestat)


@wasi("fd_filestat_set_size", "iI")
def fd_filestat_set_size(sandbox: CallingSandbox, fd: int, size: int) -> None:
    guest_of(sandbox).open(fd).file().resize(offset_of(size))


@wasi("fd_filestat_set_times", "iIIi")
def fd_filestat_set_times(sandbox: CallingSandbox, fd: int, access: int, modified: int, flags: int) -> None:
    file = guest_of(sandbox).open(fd).file()
    file.volume.check_writable()
    os.utime(file.number, ns=times_of(flags, access, modified, file.status()))


@wasi("fd_prestat_get", "ii")
def fd_prestat_get(sandbox: CallingSandbox, fd: int, result_at: int) -> None:
    put(sandbox, result_at, PRESTAT, 0, len(_granted_as(sandbox, fd)))


@wasi("fd_prestat_dir_name", "iii")
def fd_prestat_dir_name(sandbox: CallingSandbox, fd: int, address: int, length: int) -> None:
    name = _granted_as(sandbox, fd)
    if length & 0xFFFFFFFF < len(name):
        raise WasiError(Errno.NAMETOOLONG)
    sandbox.write_memory(address, name)


def _granted_as(sandbox: CallingSandbox, fd: int) -> bytes:
    name = guest_of(sandbox).open(fd).granted_as
    if name is None:
        raise WasiError(Errno.BADF)
    return name


@wasi("fd_read", "iiii")
def fd_read(sandbox: CallingSandbox, fd: int, buffers_start: int, count: int, result_at: int) -> None:
    buffers = buffers_at(sandbox, buffers_start, count)
    content = guest_of(sandbox).open(fd).read(sum(length for _, length in buffers))
    scatter(sandbox, buffers, content)
    put_u32(sandbox, result_at, len(content))


@wasi("fd_pread", "iiiIi")
def fd_pread(
    sandbox: CallingSandbox, fd: int, buffers_start: int, count: int, offset: int, result_at: int
) -> None:
    file = guest_of(sandbox).open(fd).file()
    buffers = buffers_at(sandbox, buffers_start, count)
    content = file.read_at(sum(length for _, length in buffers), offset_of(offset))
    scatter(sandbox, buffers, content)
    put_u32(sandbox, result_at, len(content))


@wasi_waiting("fd_write", "iiii")
def fd_write(
    sandbox: CallingSandbox, fd: int, buffers_start: int, count: int, result_at: int
) -> Generator[Wait, None, None]:
    descriptor = guest_of(sandbox).open(fd)
    written = yield from descriptor.write(gather(sandbox, buffers_start, count))
    put_u32(sandbox, result_at, written)


@wasi("fd_pwrite", "iiiIi")
def fd_pwrite(
    sandbox: CallingSandbox, fd: int, buffers_start: int, count: int, offset: int, result_at: int
) -> None:
    file = guest_of(sandbox).open(fd).file()
    put_u32(sandbox, result_at, file.write_at(gather(sandbox, buffers_start, count), offset_of(offset)))


@wasi("fd_seek", "iIii")
def fd_seek(sandbox: CallingSandbox, fd: int, offset: int, whence: int, result_at: int) -> None:
    if not 0 <= whence < len(WHENCES):
        raise WasiError(Errno.INVAL)
    put(sandbox, result_at, U64, guest_of(sandbox).open(fd).seek(offset, WHENCES[whence]))


@wasi("fd_tell", "ii")
def fd_tell(sandbox: CallingSandbox, fd: int, result_at: int) -> None:
    put(sandbox, result_at, U64, guest_of(sandbox).open(fd).seek(0, os.SEEK_CUR))


@wasi("fd_renumber", "ii")
def fd_renumber(sandbox: CallingSandbox, source: int, target: int) -> None:
    guest_of(sandbox).renumber(source, target)


@wasi_waiting("fd_readdir", "iiiIi")
def fd_readdir(
    sandbox: CallingSandbox, fd: int, address: int, length: int, cookie: int, result_at: int
) -> Generator[Wait, None, None]:
    directory = guest_of(sandbox).open(fd).directory()
    room, place, listed = min(length & 0xFFFFFFFF, MAX_TRANSFER_BYTES), offset_of(cookie), bytearray()
    check_range(sandbox, address & 0xFFFFFFFF, room)
    for entry in directory.entries_from(place):
        if len(listed) >= room:
            break
        if entry is None:
            yield turn_of_others()
            continue
        name, inode, kind = entry
        place += 1
        listed += DIRENT.pack(place, inode, len(name), kind) + name
    # The last one may be cut: a guest that sees a full buffer asks again from there on.
    sandbox.write_memory(address, bytes(listed[:room]))
    put_u32(sandbox, result_at, min(len(listed), room))


DESCRIPTOR_CALLS = (
    fd_advise, fd_allocate, fd_close, fd_sync, fd_datasync, fd_fdstat_get, fd_fdstat_set_flags,
    fd_fdstat_set_rights, fd_filestat_get, fd_filestat_set_size, fd_filestat_set_times, fd_prestat_get,
    fd_prestat_dir_name, fd_read, fd_pread, fd_write, fd_pwrite, fd_seek, fd_tell, fd_renumber, fd_readdir,
)  # fmt: skip
