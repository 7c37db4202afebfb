"""wasi:filesystem: files and directories of the volumes that a guest is granted."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from functools import wraps
from hashlib import blake2b

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.wait import Wait, turn_of_others
from spear_wasm.model import ErrorCode
from spear_wasm.wasi.descriptors import Directory, Entry, File, OnDisk, offset_of
from spear_wasm.wasi.errno import Errno, WasiError, number_of
from spear_wasm.wasi.guest import MAX_DESCRIPTORS
from spear_wasm.wasi.paths import open_directory
from spear_wasm.wasi.preview2 import file_types as types
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import MAX_TRANSFER_BYTES, Interface
from spear_wasm.wasi.preview2.streams import Failure, FileSink, FileSource, InputStream, OutputStream
from spear_wasm.wasi.types import Rights
from spear_wasm.wit.values import Case, Err, Ok, WitValue

FILES = Interface("wasi:filesystem/types", "descriptor", "directory-entry-stream")
PREOPENS = Interface("wasi:filesystem/preopens")

SELF = "self: borrow<descriptor>"
TIMES = f"data-access-timestamp: {types.NEW_TIMESTAMP}, data-modification-timestamp: {types.NEW_TIMESTAMP}"
NOTHING = f"result<_, {types.ERROR_CODE}>"
STAT = f"result<{types.STAT}, {types.ERROR_CODE}>"
HASH = f"result<record {{ lower: u64, upper: u64 }}, {types.ERROR_CODE}>"
_SECRET = secrets.token_bytes(16)


class FileInput(InputStream):
    """A stream out of a file."""

    def __init__(self, file: File, offset: int) -> None:
        super().__init__(FileSource(file, offset))


class FileOutput(OutputStream):
    """A stream into a file."""

    def __init__(self, file: File, offset: int | None) -> None:
        super().__init__(FileSink(file, offset))


class DirectoryEntries:
    """wasi:filesystem's `directory-entry-stream`: what is in a directory, which is open for that alone."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._entries = directory.entries_from(0)

    def __iter__(self) -> Iterator[Entry | None]:
        """The entries from where it is; None where others should have their turns."""
        return self._entries

    def close(self) -> None:
        """Close the directory."""
        self._directory.close()


_OPEN = (OnDisk, FileInput, FileOutput, DirectoryEntries)
"""What a guest may have as many of together as a guest of preview 1 may have descriptors."""


def check_room(guest: ComponentGuest) -> None:
    """WasiError where it has as much open as it may."""
    if guest.resources.count(*_OPEN) >= MAX_DESCRIPTORS:
        raise WasiError(Errno.MFILE)


def told(work: Callable[..., WitValue]) -> Callable[..., WitValue]:
    """A function whose errors its guest is told of."""

    @wraps(work)
    def answer(guest: ComponentGuest, *args: WitValue) -> WitValue:
        try:
            return Ok(work(guest, *args))
        except (WasiError, OSError) as error:
            return Err(_code_of(error))

    return answer


def told_later(
    work: Callable[..., Generator[Wait, None, WitValue]],
) -> Callable[..., Generator[Wait, None, WitValue]]:
    """The same for one that waits."""

    @wraps(work)
    def answer(guest: ComponentGuest, *args: WitValue) -> Generator[Wait, None, WitValue]:
        try:
            return Ok((yield from work(guest, *args)))
        except (WasiError, OSError) as error:
            return Err(_code_of(error))

    return answer


def _code_of(error: WasiError | OSError) -> str:
    return types.code_of(number_of(error))


def descriptor_of(guest: ComponentGuest, number: int) -> OnDisk:
    """What a handle stands for, be it a file or a directory."""
    return guest.resources.get(number, OnDisk)


def _file(guest: ComponentGuest, number: int) -> File:
    return descriptor_of(guest, number).file()


def directory_of(guest: ComponentGuest, number: int) -> Directory:
    """The directory that a handle stands for."""
    return descriptor_of(guest, number).directory()


@PREOPENS.function("get-directories", "func() -> list<tuple<own<descriptor>, string>>")
def get_directories(guest: ComponentGuest) -> WitValue:
    # Each time anew: a guest that drops one has the others still.
    opened: list[WitValue] = []
    for volume in guest.volumes:
        try:
            check_room(guest)
            directory = Directory(open_directory(volume.path), volume)
        except (WasiError, OSError) as error:
            raise GuestFault(
                ErrorCode.INSTANCE_FAILED, f"what the task grants cannot be had: {_code_of(error)}"
            ) from None
        opened.append((guest.resources.add(directory), volume.name))
    return opened


@FILES.function("filesystem-error-code", f"func(err: borrow<error>) -> option<{types.ERROR_CODE}>")
def filesystem_error_code(guest: ComponentGuest, number: int) -> WitValue:
    return types.code_of(guest.resources.get(number, Failure).number)


@FILES.function(
    "[method]descriptor.read-via-stream",
    f"func({SELF}, offset: u64) -> result<own<input-stream>, {types.ERROR_CODE}>",
)
@told
def read_via_stream(guest: ComponentGuest, number: int, offset: int) -> WitValue:
    file = _file(guest, number)
    file.check_readable()
    check_room(guest)
    return guest.resources.add(FileInput(file.copy(), offset_of(offset)))


@FILES.function(
    "[method]descriptor.write-via-stream",
    f"func({SELF}, offset: u64) -> result<own<output-stream>, {types.ERROR_CODE}>",
)
@told
def write_via_stream(guest: ComponentGuest, number: int, offset: int) -> WitValue:
    return _output(guest, number, offset_of(offset))


@FILES.function(
    "[method]descriptor.append-via-stream", f"func({SELF}) -> result<own<output-stream>, {types.ERROR_CODE}>"
)
@told
def append_via_stream(guest: ComponentGuest, number: int) -> WitValue:
    return _output(guest, number, None)


def _output(guest: ComponentGuest, number: int, offset: int | None) -> int:
    file = _file(guest, number)
    file.check_writable()
    check_room(guest)
    return guest.resources.add(FileOutput(file.copy(), offset))


@FILES.function(
    "[method]descriptor.advise",
    f"func({SELF}, offset: u64, length: u64, advice: {types.ADVICE}) -> {NOTHING}",
)
@told
def advise(guest: ComponentGuest, number: int, offset: int, length: int, _advice: str) -> WitValue:
    _file(guest, number)
    offset_of(offset)
    offset_of(length)
    return None


@FILES.waiting("[method]descriptor.sync", f"func({SELF}) -> {NOTHING}")
@FILES.waiting("[method]descriptor.sync-data", f"func({SELF}) -> {NOTHING}")
@told_later
def sync(guest: ComponentGuest, number: int) -> Generator[Wait, None, WitValue]:
    yield from _file(guest, number).sync()
    return None


@FILES.function(
    "[method]descriptor.get-flags", f"func({SELF}) -> result<{types.DESCRIPTOR_FLAGS}, {types.ERROR_CODE}>"
)
@told
def get_flags(guest: ComponentGuest, number: int) -> WitValue:
    descriptor = descriptor_of(guest, number)
    if isinstance(descriptor, Directory):
        return frozenset({"read", "mutate-directory"} if descriptor.volume.writable else {"read"})
    stat = descriptor.stat()
    rights = {"read": Rights.FD_READ, "write": Rights.FD_WRITE}
    return frozenset(
        [name for name, right in rights.items() if stat.rights & right]
        + [name for name, flag in types.SYNC_FLAGS.items() if stat.flags & flag]
    )


@FILES.function(
    "[method]descriptor.get-type", f"func({SELF}) -> result<{types.DESCRIPTOR_TYPE}, {types.ERROR_CODE}>"
)
@told
def get_type(guest: ComponentGuest, number: int) -> WitValue:
    return types.name_of_type(descriptor_of(guest, number).stat().type)


@FILES.function("[method]descriptor.set-size", f"func({SELF}, size: u64) -> {NOTHING}")
@told
def set_size(guest: ComponentGuest, number: int, size: int) -> WitValue:
    _file(guest, number).resize(offset_of(size))
    return None


@FILES.function("[method]descriptor.set-times", f"func({SELF}, {TIMES}) -> {NOTHING}")
@told
def set_times(guest: ComponentGuest, number: int, access: Case, modified: Case) -> WitValue:
    descriptor = descriptor_of(guest, number)
    descriptor.volume.check_writable()
    os.utime(descriptor.number, ns=types.times_of(access, modified, descriptor.status()))
    return None


@FILES.function(
    "[method]descriptor.read",
    f"func({SELF}, length: u64, offset: u64) -> result<tuple<list<u8>, bool>, {types.ERROR_CODE}>",
)
@told
def read(guest: ComponentGuest, number: int, length: int, offset: int) -> WitValue:
    file, offset = _file(guest, number), offset_of(offset)
    content = file.read_at(min(length, MAX_TRANSFER_BYTES), offset)
    return content, offset + len(content) >= file.size()


@FILES.function(
    "[method]descriptor.write",
    f"func({SELF}, buffer: list<u8>, offset: u64) -> result<u64, {types.ERROR_CODE}>",
)
@told
def write(guest: ComponentGuest, number: int, content: bytes, offset: int) -> WitValue:
    return _file(guest, number).write_at(content, offset_of(offset))


@FILES.function(
    "[method]descriptor.read-directory",
    f"func({SELF}) -> result<own<directory-entry-stream>, {types.ERROR_CODE}>",
)
@told
def read_directory(guest: ComponentGuest, number: int) -> WitValue:
    directory = directory_of(guest, number)
    check_room(guest)
    return guest.resources.add(DirectoryEntries(directory.copy()))


@FILES.waiting(
    "[method]directory-entry-stream.read-directory-entry",
    f"func(self: borrow<directory-entry-stream>) -> result<option<{types.DIRECTORY_ENTRY}>, {types.ERROR_CODE}>",
)
@told_later
def read_directory_entry(guest: ComponentGuest, number: int) -> Generator[Wait, None, WitValue]:
    for entry in guest.resources.get(number, DirectoryEntries):
        if entry is None:
            yield turn_of_others()
            continue
        name, _, kind = entry
        if name not in {b".", b".."}:
            return {"type": types.name_of_type(kind), "name": text_of(name)}
    return None


def text_of(name: bytes) -> str:
    """A name of the host's, which need not be text."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise WasiError(Errno.ILSEQ) from None


@FILES.function("[method]descriptor.stat", f"func({SELF}) -> {STAT}")
@told
def stat(guest: ComponentGuest, number: int) -> WitValue:
    return types.stat_of(descriptor_of(guest, number).status())


@FILES.function("[method]descriptor.is-same-object", f"func({SELF}, other: borrow<descriptor>) -> bool")
def is_same_object(guest: ComponentGuest, number: int, other: int) -> WitValue:
    return os.path.samestat(descriptor_of(guest, number).status(), descriptor_of(guest, other).status())


@FILES.function("[method]descriptor.metadata-hash", f"func({SELF}) -> {HASH}")
@told
def metadata_hash(guest: ComponentGuest, number: int) -> WitValue:
    return hash_of(descriptor_of(guest, number).status())


def hash_of(status: os.stat_result) -> WitValue:
    """By what a file is known again, as long as it does not change."""
    # What of the host goes in is nobody's business: it cannot be had from what comes out.
    told = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    digest = blake2b(told.encode(), key=_SECRET, digest_size=16).digest()
    return {"lower": int.from_bytes(digest[:8]), "upper": int.from_bytes(digest[8:])}
