"""Files and directories as descriptors: what may be open, how directories are listed, what a bound counts."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode
from spear_wasm.wasi import descriptors
from spear_wasm.wasi.errno import Errno
from spear_wasm.wasi.grants import GrantedDirectory, Grants
from spear_wasm.wasi.guest import MAX_DESCRIPTORS
from spear_wasm.wasi.open_files import OpenFileBudget
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wasi.volume import MAX_SCRATCH_ENTRIES, Scratch, Volume
from tests.wasi.preview1.guests import NOTHING, OUT, Guest, Guests

CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8
READ, WRITE, SET_SIZE = 1 << 1, 1 << 6, 1 << 22
LISTING, LISTING_BYTES = 70_000, 4096
FIRST, SECOND = 3, 4
"""The descriptors of what a guest is granted."""


@pytest.fixture
def writable(tmp_path: Path) -> Volume:
    (tmp_path / "writable").mkdir()
    return Volume("/w", tmp_path / "writable", writable=True)


@pytest.fixture
def readable(tmp_path: Path) -> Volume:
    (tmp_path / "readable").mkdir()
    (tmp_path / "readable" / "file").write_bytes(b"kept")
    return Volume("/r", tmp_path / "readable", writable=False)


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """One that its guest closes."""
    made = Scratch("/tmp", 1 << 20)
    yield made
    assert not made.path.exists()


def open_in_this_process() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def path(guest: Guest, text: str, at: int = 1000) -> tuple[int, int]:
    """A path in its memory: where, and how long."""
    guest.write(at, text.encode())
    return at, len(text.encode())


def open_(
    guest: Guest, name: str, flags: int = 0, rights: int = READ, directory: int = FIRST, fd_flags: int = 0
) -> Errno:
    return guest.call("path_open", directory, 0, *path(guest, name), flags, rights, 0, fd_flags, OUT)


def opened(guest: Guest, name: str, flags: int = CREATE, rights: int = READ | WRITE | SET_SIZE) -> int:
    assert open_(guest, name, flags, rights) is Errno.SUCCESS
    return guest.number()


def listed(guest: Guest, cookie: int = 0, size: int = LISTING_BYTES) -> tuple[list[tuple[str, int]], bool]:
    """Names and cookies of entries that came whole, and whether these were the last ones."""
    assert guest.call("fd_readdir", FIRST, LISTING, size, cookie, OUT) is Errno.SUCCESS
    content, entries = guest.read(LISTING, guest.number()), []
    is_last = len(content) < size
    while len(content) >= 24:
        following, _, length, _ = struct.unpack_from("<QQIB", content)
        if len(content) < 24 + length:
            break
        entries.append((content[24 : 24 + length].decode(), following))
        content = content[24 + length :]
    return entries, is_last


# --- how many may be open -----------------------------------------------------------------------------------


def test_a_guest_has_so_many_open_and_no_more(guests: Guests, readable: Volume) -> None:
    with guests.one(NOTHING, readable) as guest:
        for _ in range(MAX_DESCRIPTORS - 4):
            assert open_(guest, "file") is Errno.SUCCESS
        assert open_(guest, "file") is Errno.MFILE
        assert guest.call("fd_close", 20) is Errno.SUCCESS
        assert open_(guest, "file") is Errno.SUCCESS
        assert guest.number() == 20


def test_all_guests_together_leave_descriptors_to_the_host(
    guests: Guests, readable: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "OPEN_FILES", OpenFileBudget(4))
    with guests.one(NOTHING, readable) as one, guests.one(NOTHING, readable) as other:
        assert open_(one, "file") is Errno.SUCCESS
        assert open_(other, "file") is Errno.SUCCESS
        before = open_in_this_process()
        assert open_(one, "file") is Errno.NFILE
        assert open_(other, "file") is Errno.NFILE
        assert open_in_this_process() == before
        assert one.call("fd_close", 4) is Errno.SUCCESS
        assert open_(other, "file") is Errno.SUCCESS


def test_nothing_stays_open_behind_a_guest(
    guests: Guests, readable: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "OPEN_FILES", OpenFileBudget(13))
    before = open_in_this_process()
    for _ in range(3):
        with guests.one(NOTHING, readable, Scratch("/tmp", 1000)) as guest:
            for _ in range(10):
                assert open_(guest, "file") is Errno.SUCCESS
            assert open_(guest, "new", CREATE, WRITE, SECOND) is Errno.SUCCESS
            listed(guest)
        assert open_in_this_process() == before


def test_a_grant_that_is_gone_is_the_hosts_fault_and_leaves_nothing(
    guests: Guests, readable: Volume, tmp_path: Path
) -> None:
    there, gone = (
        GrantedDirectory(f"/{name}", tmp_path / name, writable=False) for name in ("readable", "x")
    )
    grants = Grants({}, (there, gone), scratch=1000)
    before = open_in_this_process()
    with guests.one() as guest, pytest.raises(GuestFault) as caught:
        grants.given_to(partial(WasiGuest, guest.sandbox))
    assert caught.value.code is ErrorCode.INSTANCE_FAILED
    assert open_in_this_process() == before


# --- what reading only means ---------------------------------------------------------------------------------


def test_what_is_granted_for_reading_cannot_be_changed_in_any_way(
    guests: Guests, readable: Volume, writable: Volume
) -> None:
    with guests.one(NOTHING, readable, writable) as guest:
        for flags, rights in ((0, WRITE), (CREATE, 0), (TRUNCATE, READ), (CREATE | EXCLUSIVE, READ)):
            name = "new" if flags & CREATE else "file"
            assert open_(guest, name, flags, rights) is Errno.ROFS
        assert open_(guest, "file", CREATE) is Errno.SUCCESS  # which was there
        fd = guest.number()
        assert guest.call("fd_filestat_set_size", fd, 0) is Errno.BADF
        assert guest.call("fd_filestat_set_times", fd, 0, 0, 1) is Errno.ROFS
        assert guest.call("fd_write", fd, *guest.buffers((0, 1)), OUT) is Errno.BADF
        old, new = path(guest, "file"), path(guest, "other", 2000)
        assert guest.call("path_link", FIRST, 0, *old, SECOND, *new) is Errno.ROFS
        assert guest.call("path_rename", FIRST, *old, SECOND, *new) is Errno.ROFS
        assert guest.call("path_rename", SECOND, *new, FIRST, *old) is Errno.ROFS
        assert guest.call("path_filestat_set_times", FIRST, 0, *old, 0, 0, 4) is Errno.ROFS
    assert (readable.path / "file").read_bytes() == b"kept"
    assert [each.name for each in readable.path.iterdir()] == ["file"]
    assert not list(writable.path.iterdir())


# --- listing -------------------------------------------------------------------------------------------------


def test_a_directory_larger_than_a_buffer_is_listed_whole_and_once(guests: Guests, writable: Volume) -> None:
    names = {f"entry-{number:04}" for number in range(3000)}
    for name in names:
        (writable.path / name).touch()
    with guests.one(NOTHING, writable) as guest:
        found, cookie, is_last = [], 0, False
        while not is_last:
            entries, is_last = listed(guest, cookie)
            found += [name for name, _ in entries]
            cookie = entries[-1][1] if entries else cookie
        assert sorted(found) == sorted(names | {".", ".."})


def test_whoever_goes_back_sees_the_same_again(guests: Guests, writable: Volume) -> None:
    for number in range(500):
        (writable.path / f"entry-{number:04}").touch()
    with guests.one(NOTHING, writable) as guest:
        first, _ = listed(guest)
        listed(guest, first[-1][1])
        assert listed(guest, first[3][1])[0][0] == first[4]
        assert listed(guest, 10**6) == ([], True)
        assert listed(guest, 2**63 - 1) == ([], True)
        assert listed(guest)[0] == first
        assert guest.call("fd_readdir", FIRST, LISTING, 64, 2**64 - 1, OUT) is Errno.INVAL


# --- what the bound of a scratch directory counts --------------------------------------------------------------


def room_left(guest: Guest, name: str = "probe") -> int:
    """How large another file may become, to the nearest of 64 KiB."""
    fd, step, size = opened(guest, name), 64 << 10, 0
    while guest.call("fd_filestat_set_size", fd, size + step) is Errno.SUCCESS:
        size += step
    assert guest.call("fd_close", fd) is Errno.SUCCESS
    assert guest.call("path_unlink_file", FIRST, *path(guest, name)) is Errno.SUCCESS
    return size


def test_files_count_once_until_the_last_name_and_the_last_descriptor_is_gone(
    guests: Guests, scratch: Scratch
) -> None:
    half = 1 << 19
    with guests.one(NOTHING, scratch) as guest:
        fd = opened(guest, "file")
        assert guest.call("fd_filestat_set_size", fd, half) is Errno.SUCCESS
        assert (
            guest.call("path_link", FIRST, 0, *path(guest, "file"), FIRST, *path(guest, "again", 2000))
            is Errno.SUCCESS
        )
        assert room_left(guest) == half
        assert guest.call("path_unlink_file", FIRST, *path(guest, "file")) is Errno.SUCCESS
        assert room_left(guest) == half
        assert guest.call("path_unlink_file", FIRST, *path(guest, "again")) is Errno.SUCCESS
        assert room_left(guest) == half
        assert guest.call("fd_close", fd) is Errno.SUCCESS
        assert room_left(guest) == 2 * half


def test_what_a_rename_replaces_counts_no_more(guests: Guests, scratch: Scratch) -> None:
    half = 1 << 19
    with guests.one(NOTHING, scratch) as guest:
        for name in ("old", "new"):
            fd = opened(guest, name)
            assert guest.call("fd_filestat_set_size", fd, half) is Errno.SUCCESS
            assert guest.call("fd_close", fd) is Errno.SUCCESS
        assert room_left(guest) == 0
        new, old = path(guest, "new"), path(guest, "old", 2000)
        assert guest.call("path_rename", FIRST, *new, FIRST, *old) is Errno.SUCCESS
        assert room_left(guest) == half
        fd = opened(guest, "old", TRUNCATE)
        assert room_left(guest) == 2 * half


def test_entries_of_every_kind_count_and_are_free_again_when_they_are_gone(
    guests: Guests, scratch: Scratch
) -> None:
    with guests.one(NOTHING, scratch) as guest:
        for number in range(MAX_SCRATCH_ENTRIES):
            target = path(guest, "x", 3000)
            if number % 2:
                made = guest.call("path_symlink", *target, FIRST, *path(guest, str(number)))
            else:
                made = guest.call("path_create_directory", FIRST, *path(guest, str(number)))
            assert made is Errno.SUCCESS
        assert guest.call("path_create_directory", FIRST, *path(guest, "more")) is Errno.NOSPC
        assert open_(guest, "more", CREATE, WRITE) is Errno.NOSPC
        assert guest.call("path_remove_directory", FIRST, *path(guest, "0")) is Errno.SUCCESS
        assert guest.call("path_unlink_file", FIRST, *path(guest, "1")) is Errno.SUCCESS
        for name in ("more", "and more"):
            assert guest.call("path_create_directory", FIRST, *path(guest, name)) is Errno.SUCCESS
        assert guest.call("path_create_directory", FIRST, *path(guest, "too much")) is Errno.NOSPC


def test_a_write_far_behind_the_end_counts_what_the_file_becomes(guests: Guests, scratch: Scratch) -> None:
    with guests.one(NOTHING, scratch) as guest:
        fd, one = opened(guest, "file"), guest.buffers((0, 1))
        assert guest.call("fd_pwrite", fd, *one, (1 << 20) - 1, OUT) is Errno.SUCCESS
        for offset in (1 << 20, 2**62, 2**63 - 1):
            assert guest.call("fd_pwrite", fd, *one, offset, OUT) in {Errno.NOSPC, Errno.FBIG, Errno.INVAL}
        assert guest.call("fd_pwrite", fd, *one, 2**63, OUT) is Errno.INVAL
        assert guest.call("fd_seek", fd, 2**62, 0, OUT) in {Errno.SUCCESS, Errno.INVAL}
        assert guest.call("fd_seek", fd, -(2**62), 0, OUT) is Errno.INVAL
