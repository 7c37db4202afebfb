"""Standard input, output and error as descriptors, and what hostile numbers do to them."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode
from spear_wasm.wasi.errno import Errno
from spear_wasm.wasi.guest import WasiCall
from spear_wasm.wasi.types import FdFlags, Rights
from tests.wasi.preview1.guests import MEMORY_BYTES, OUT, Guests
from tests.workshop import LIMITS

OUTSIDE = [(MEMORY_BYTES, 1), (MEMORY_BYTES - 1, 2), (0xFFFFFFFF, 0xFFFFFFFF), (0, 0xFFFFFFFF)]
ON_A_DESCRIPTOR = {
    "fd_advise": (0, 0, 0), "fd_allocate": (0, 1), "fd_close": (), "fd_datasync": (), "fd_fdstat_get": (OUT,),
    "fd_fdstat_set_flags": (0,), "fd_fdstat_set_rights": (0, 0), "fd_filestat_get": (OUT,),
    "fd_filestat_set_size": (0,), "fd_filestat_set_times": (0, 0, 0), "fd_pread": (0, 0, 0, OUT),
    "fd_prestat_dir_name": (OUT, 0), "fd_prestat_get": (OUT,), "fd_pwrite": (0, 0, 0, OUT), "fd_read": (0, 0, OUT),
    "fd_readdir": (0, 0, 0, OUT), "fd_renumber": (1,), "fd_seek": (0, 0, OUT), "fd_sync": (), "fd_tell": (OUT,),
    "fd_write": (0, 0, OUT), "path_create_directory": (0, 1), "path_filestat_get": (0, 0, 1, OUT),
    "path_filestat_set_times": (0, 0, 1, 0, 0, 0), "path_link": (0, 0, 1, 1, 0, 1),
    "path_open": (0, 0, 1, 0, 0, 0, 0, OUT), "path_readlink": (0, 1, 0, 0, OUT), "path_remove_directory": (0, 1),
    "path_rename": (0, 1, 1, 0, 1), "path_unlink_file": (0, 1), "sock_accept": (0, OUT),
    "sock_recv": (0, 0, 0, OUT, OUT), "sock_send": (0, 0, 0, OUT), "sock_shutdown": (0,),
}  # fmt: skip


def test_input_is_read_piece_by_piece_into_several_buffers(guests: Guests) -> None:
    with guests.one(WasiCall(stdin=b"abcdefgh")) as guest:
        read = guest.buffers((0, 3), (100, 0), (200, 2))
        assert guest.call("fd_read", 0, *read, OUT) is Errno.SUCCESS
        assert (guest.number(), guest.read(0, 3), guest.read(200, 2)) == (5, b"abc", b"de")
        assert guest.call("fd_read", 0, *read, OUT) is Errno.SUCCESS
        assert (guest.number(), guest.read(0, 3)) == (3, b"fgh")
        assert guest.call("fd_read", 0, *read, OUT) is Errno.SUCCESS
        assert guest.number() == 0


def test_output_and_log_are_kept_apart(guests: Guests) -> None:
    with guests.one() as guest:
        guest.write(0, b"one two")
        assert guest.call("fd_write", 1, *guest.buffers((0, 3), (4, 3)), OUT) is Errno.SUCCESS
        assert guest.number() == 6
        assert guest.print(2, b"three") is Errno.SUCCESS
        usage = guest.sandbox.usage(0)
        assert (usage.stdout, usage.stderr) == (b"onetwo", b"three")


def test_a_large_write_arrives_whole(guests: Guests) -> None:
    with guests.one() as guest:
        content = bytes(range(256)) * 512
        guest.write(0, content)
        guest.write(OUT, struct.pack("<II", 0, MEMORY_BYTES))
        content = guest.read(0, MEMORY_BYTES)
        assert guest.call("fd_write", 1, OUT, 1, OUT) is Errno.SUCCESS
        assert guest.number() == MEMORY_BYTES
        assert guest.sandbox.output == content


def test_output_above_its_limit_ends_it_however_it_is_written(guests: Guests) -> None:
    limits = replace(LIMITS, max_output_bytes=70_000)
    for ranges in ([(0, 80_000)], [(0, 40_000)] * 2, [(0, 1000)] * 71):
        with guests.one(limits=limits) as guest:
            *first, last = ranges
            for each in first:
                assert guest.call("fd_write", 1, *guest.buffers(each), OUT) is Errno.SUCCESS
            with pytest.raises(GuestFault) as caught:
                guest.call("fd_write", 1, *guest.buffers(last), OUT)
            assert caught.value.code is ErrorCode.OUTPUT_LIMIT
            assert len(guest.sandbox.output) == 70_000


@pytest.mark.parametrize("outside", OUTSIDE)
def test_buffers_outside_of_the_memory_are_refused_before_anything_is_moved(
    guests: Guests, outside: tuple[int, int]
) -> None:
    with guests.one(WasiCall(stdin=b"abc")) as guest:
        for ranges in ([outside], [(0, 1), outside]):
            assert guest.call("fd_write", 1, *guest.buffers(*ranges), OUT) is Errno.FAULT
            assert guest.call("fd_write", 2, *guest.buffers(*ranges), OUT) is Errno.FAULT
            assert guest.call("fd_read", 0, *guest.buffers(*ranges), OUT) is Errno.FAULT
        assert guest.call("fd_write", 1, *outside, OUT) in {Errno.FAULT, Errno.INVAL}
        assert guest.sandbox.usage(0).stdout == guest.sandbox.usage(0).stderr == b""
        assert guest.call("fd_read", 0, *guest.buffers((0, 3)), OUT) is Errno.SUCCESS
        assert guest.number() == 3


def test_more_buffers_than_a_call_may_name_are_refused(guests: Guests) -> None:
    with guests.one() as guest:
        for fd, name in ((0, "fd_read"), (1, "fd_write")):
            assert guest.call(name, fd, 0, 1024, OUT) is Errno.SUCCESS
            assert guest.call(name, fd, 0, 1025, OUT) is Errno.INVAL
            assert guest.call(name, fd, 0, 0xFFFFFFFF, OUT) is Errno.INVAL


def test_buffers_that_have_more_together_than_can_be_told_are_refused(guests: Guests) -> None:
    limits = replace(LIMITS, max_output_bytes=1 << 40, max_memory_bytes=16 << 20)
    with guests.one(limits=limits) as guest:
        guest.write(0, struct.pack("<II", 0, MEMORY_BYTES) * 1024)
        assert MEMORY_BYTES * 1024 < 1 << 32
        assert guest.call("fd_write", 2, 0, 1024, OUT) is Errno.SUCCESS
        assert guest.sandbox.usage(0).output_truncated


def test_streams_read_or_write_and_have_no_places(guests: Guests) -> None:
    with guests.one() as guest:
        assert guest.call("fd_read", 1, 0, 0, OUT) is Errno.BADF
        assert guest.call("fd_write", 0, 0, 0, OUT) is Errno.BADF
        for fd in range(3):
            assert guest.call("fd_seek", fd, 0, 0, OUT) is Errno.SPIPE
            assert guest.call("fd_tell", fd, OUT) is Errno.SPIPE
            assert guest.call("fd_pread", fd, 0, 0, 0, OUT) is Errno.SPIPE
            assert guest.call("fd_pwrite", fd, 0, 0, 0, OUT) is Errno.SPIPE
            assert guest.call("fd_prestat_get", fd, OUT) is Errno.BADF
            assert guest.call("fd_filestat_set_size", fd, 0) is Errno.SPIPE
            assert guest.call("fd_filestat_get", fd, OUT) is Errno.SUCCESS
            assert guest.call("path_open", fd, 0, 0, 1, 0, 0, 0, 0, OUT) is Errno.NOTDIR
            assert guest.call("sock_shutdown", fd, 0) is Errno.NOTSOCK


def test_a_stream_is_no_terminal_and_says_what_it_can(guests: Guests) -> None:
    with guests.one() as guest:
        streams = (
            (0, Rights.FD_READ, 0),
            (1, Rights.FD_WRITE, FdFlags.APPEND),
            (2, Rights.FD_WRITE, FdFlags.APPEND),
        )
        for fd, right, flag in streams:
            assert guest.call("fd_fdstat_get", fd, OUT) is Errno.SUCCESS
            kind, flags, rights, inherited = struct.unpack("<BxHxxxxQQ", guest.read(OUT, 24))
            assert (kind, flags, rights, inherited) == (0, flag, right | Rights.POLL_FD_READWRITE, 0)
            assert guest.call("fd_fdstat_set_rights", fd, rights, 0) is Errno.NOTSUP


@pytest.mark.parametrize("name", ON_A_DESCRIPTOR)
def test_a_number_that_nothing_is_open_under_is_refused(guests: Guests, name: str) -> None:
    with guests.one() as guest:
        for fd in (3, 64, 0x7FFFFFFF, 0xFFFFFFFF):
            assert guest.call(name, fd, *ON_A_DESCRIPTOR[name]) is Errno.BADF


def test_a_closed_stream_is_gone_and_another_can_take_its_place(guests: Guests) -> None:
    with guests.one() as guest:
        assert guest.call("fd_renumber", 2, 1) is Errno.SUCCESS
        assert guest.print(1, b"to the log") is Errno.SUCCESS
        assert guest.print(2, b"nowhere") is Errno.BADF
        assert guest.call("fd_renumber", 1, 1) is Errno.SUCCESS
        assert guest.call("fd_renumber", 1, 7) is Errno.BADF
        assert guest.call("fd_close", 1) is Errno.SUCCESS
        assert guest.call("fd_close", 1) is Errno.BADF
        usage = guest.sandbox.usage(0)
        assert (usage.stdout, usage.stderr) == (b"", b"to the log")
